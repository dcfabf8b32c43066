/* The interpreter of a context: runs cells one after the other in one global scope.
 *
 * Started by context.c, which speaks to it by lines on a descriptor of its own. For each cell it
 * says where in /proc the descriptors of its command are; they take the place of 0, 1 and 2 while
 * the cell runs, so that what the cell starts has them as well. Node.js cannot duplicate
 * descriptors: the lowest one that is free is what the next open gives.
 *
 * A cell is a script, changed where a script could not do what a cell should: top-level names can
 * be declared again, imports are made dynamic ones, and await is allowed. */
'use strict';
(() => { /* so that cells do not see what is declared here */
const fs = require('node:fs');
const module_ = require('node:module');
const net = require('node:net');
const util = require('node:util');
const vm = require('node:vm');
const { Writable } = require('node:stream');

const NO_TYPES = 65; /* exit code: it cannot run TypeScript; context.h */
const [control_fd, runtime] = process.argv.slice(-2);
const typed = runtime === 'typescript';
const owner = process.ppid;
const { parse } = require('internal/deps/acorn/acorn/dist/acorn');
const { processTopLevelAwait } = require('internal/repl/await');

if (typed && !module_.stripTypeScriptTypes) {
  fs.writeSync(2, `Node.js ${process.version} cannot run TypeScript: 22.13 or newer can\n`);
  process.exit(NO_TYPES);
}

/* --- standard streams --- */

class Out extends Writable {
  constructor(fd) {
    super({ decodeStrings: true, autoDestroy: false });
    this.fd = fd;
  }
  _write(chunk, encoding, done) {
    try {
      for (let at = 0; at < chunk.length;) at += fs.writeSync(this.fd, chunk, at);
    } catch { /* nobody reads it any more */ }
    done();
  }
}

const out = [null, new Out(1), new Out(2)];
let input = null;

for (const [fd, name] of [[1, 'stdout'], [2, 'stderr']])
  Object.defineProperty(process, name, { configurable: true, enumerable: true, get: () => out[fd] });
Object.defineProperty(process, 'stdin', {
  configurable: true,
  enumerable: true,
  get: () => (input ??= fs.createReadStream('', { fd: 0, autoClose: false })),
});

function put(places) {
  input = null;
  for (let fd = 0; fd < 3; fd++) {
    try {
      fs.closeSync(fd);
    } catch { /* the cell did that */ }
    const how = fd ? fs.constants.O_WRONLY : fs.constants.O_RDONLY;

    if (fs.openSync(`/proc/${owner}/fd/${places[fd]}`, how) !== fd) process.reallyExit(70);
  }
}

/* --- from a cell to a script --- */

function imported(node) {
  const from = `await import(${JSON.stringify(node.source.value)})`;
  const names = [];
  let all = null;

  for (const s of node.specifiers) {
    if (s.type === 'ImportNamespaceSpecifier') all = s.local.name;
    else names.push(`${JSON.stringify(s.type === 'ImportDefaultSpecifier' ? 'default'
      : s.imported.name ?? s.imported.value)}: ${s.local.name}`);
  }
  if (all) return `var ${all} = ${from};` + (names.length ? ` var {${names}} = ${all};` : '');
  return names.length ? `var {${names}} = ${from};` : `${from};`;
}

function change(node, code) {
  switch (node.type) {
    case 'ImportDeclaration':
      return imported(node);
    case 'ExportNamedDeclaration':
    case 'ExportDefaultDeclaration':
      return node.declaration ? change(node.declaration, code) : '';
    case 'VariableDeclaration':
      return 'var' + code.slice(node.start + node.kind.length, node.end);
    case 'ClassDeclaration':
      return node.id ? `var ${node.id.name} = ${code.slice(node.start, node.end)};`
        : code.slice(node.start, node.end);
    default:
      return code.slice(node.start, node.end);
  }
}

/* @return the script, and whether its value is a promise of a box with the value of the cell. */
function scriptOf(cell) {
  const code = /^\s*{/.test(cell) && !/;\s*$/.test(cell) && parses(`(${cell.trim()})`)
    ? `(${cell.trim()})` : cell;
  let tree, script = '', at = 0;

  try {
    tree = parse(code, { ecmaVersion: 'latest', sourceType: 'module', allowHashBang: true });
  } catch {
    return [code, false]; /* the engine's own words tell better what is wrong */
  }
  for (const node of tree.body) {
    script += code.slice(at, node.start) + change(node, code);
    at = node.end;
  }
  script += code.slice(at);
  try {
    const waiting = /\bawait\b/.test(script) && processTopLevelAwait(script);

    return [waiting || script, Boolean(waiting)];
  } catch {
    return [script, false];
  }
}

function parses(code) {
  try {
    return Boolean(parse(code, { ecmaVersion: 'latest', allowAwaitOutsideFunction: true }));
  } catch {
    return false;
  }
}

/* --- running it --- */

class Exit {
  constructor(status) {
    this.status = status;
  }
}

let interrupted = null; /* of the cell that runs: rejects its wait */

process.exit = (status = process.exitCode ?? 0) => {
  throw new Exit(Number(status) & 255);
};
process.on('SIGINT', () => interrupted?.(new Error('interrupted')));

function late(why) {
  if (why instanceof Exit) interrupted?.(why);
  else show(why);
}
process.on('uncaughtException', late);
process.on('unhandledRejection', late);

function show(why) {
  let text = why instanceof Error && typeof why.stack === 'string' ? why.stack
    : 'Uncaught ' + util.inspect(why);
  const inside = text.search(/\n +at .*(node:vm|\[eval\]|node:internal)/);

  if (inside >= 0) text = text.slice(0, inside);
  out[2].write(text + '\n');
}

/* In a box, as a promise that is the value of a cell is not waited for. */
async function boxOf(number, cell) {
  const code = typed ? module_.stripTypeScriptTypes(cell, { mode: 'transform' }) : cell;
  const [text, waits] = scriptOf(code);
  const script = new vm.Script(text, {
    filename: `cell-${number}`,
    importModuleDynamically: vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  });
  const stopped = new Promise((_, reject) => (interrupted = reject));
  stopped.catch(() => {});
  const value = script.runInThisContext({ breakOnSigint: true });

  return waits ? Promise.race([value, stopped]) : { value };
}

async function run(number, code) {
  process.exitCode = undefined;
  try {
    const value = (await boxOf(number, code))?.value;

    if (value !== undefined) out[1].write(util.inspect(value) + '\n');
    return process.exitCode ?? 0;
  } catch (why) {
    if (why instanceof Exit) return why.status;
    show(why);
    return 1;
  } finally {
    interrupted = null;
    process.exitCode = undefined;
  }
}

/* --- the keeper --- */

const control = new net.Socket({ fd: Number(control_fd), readable: true, writable: true });
let rest = '';

async function take(line) {
  const [number, , ...places] = line.split(' ').slice(1).map(Number);
  const code = fs.readFileSync(`/proc/${owner}/fd/${places.pop()}`, 'utf8');

  put(places);
  const status = await run(number, code);
  put([0, 1, 2]);
  control.write(`done ${number} ${Number(status) & 255}\n`);
}

control.on('data', (data) => {
  rest += data.toString('latin1');
  for (let end; (end = rest.indexOf('\n')) >= 0; rest = rest.slice(end + 1))
    void take(rest.slice(0, end));
});
control.on('close', () => process.reallyExit(0));

process.argv.length = 1;
globalThis.require = module_.createRequire(`${process.cwd()}/`);
globalThis.module = { exports: {} };
globalThis.exports = globalThis.module.exports;
control.write('ready\n');
})();
