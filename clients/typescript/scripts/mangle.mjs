/**
 * Properties that the build renames to shorter ones. Names of private members begin with `_`, and no other name does:
 * neither of the API, nor on the wire.
 */
export const mangleProps = /^_/;
