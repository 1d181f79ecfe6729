/** The one script of the demo page: the page itself, and, loaded by a worker, its slow client. */

import { startPage } from "./page.js";
import { serveSlowClient } from "./slow_worker.js";

if (typeof document === "undefined") serveSlowClient();
else void startPage();
