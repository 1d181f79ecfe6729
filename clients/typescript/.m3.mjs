import { gzipSync } from "node:zlib";
import { build } from "esbuild";
const run = async (label, mangleProps, target="es2020")=>{
const r = await build({entryPoints:["src/index.ts"],bundle:true,minify:true,format:"esm",target,write:false,metafile:true,mangleProps});
console.log(label, r.outputFiles[0].contents.length, gzipSync(r.outputFiles[0].contents,{level:9}).length); return r;};
const r=await run("private",/^_/);
const names="onConnected|onPush|onDisconnected|onState|onError|onMessage|onEvent|missesGaps|forConnect|acquire|release|reportError|setState|onSubscribed|resubscribe|sinks|byServer|paused|attempts|canFetch|needed|current|expiresIn|expired|clearTimers|restart|subs_|reaction|backoff|sentAt|retryTimer|settle|retryBound|tokens|urls|resume|emit|isLate|end";
await run("internal",new RegExp("^(_.*|"+names+")$"));
if (process.argv[2]) for(const [f,{bytesInOutput}] of Object.entries(Object.values(r.metafile.outputs)[0].inputs).sort((a,b)=>b[1].bytesInOutput-a[1].bytesInOutput)) console.log(bytesInOutput,f);
// how much does each file cost: gz without it approximated by stubbing
