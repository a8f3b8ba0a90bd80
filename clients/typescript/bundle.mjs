// `node bundle.mjs [FOLDER]`: the compiled package as two files, which `lowtide client typescript` hands out.

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';

const here = import.meta.dirname;
const folder = process.argv[2] ?? join(here, '../../src/lowtide/clients/runtime');
await mkdir(folder, { recursive: true });

await build({
  absWorkingDir: here,
  entryPoints: ['dist/index.js'],
  outfile: join(folder, 'lowtide.js'),
  bundle: true,
  format: 'esm',
  target: 'es2022',
  logLevel: 'warning'
});

// The declarations, in the order in which they need each other; what they import from outside comes first.
const outside = new Map();
const seen = new Set();
const parts = [];
async function add(name) {
  if (seen.has(name)) return;
  seen.add(name);
  let text = await readFile(join(here, 'dist', `${name}.d.ts`), 'utf8');
  const needed = [...text.matchAll(/from '\.\/([\w-]+)\.js'/g)].map((match) => match[1]);
  text = text.replace(/^(import|export) [^;]*? from '([^']+)';\n/gm, (statement, kind, from) => {
    if (from.startsWith('.')) return '';
    for (const word of /\{([^}]*)\}/.exec(statement)[1].split(',')) {
      if (!outside.has(from)) outside.set(from, new Set());
      outside.get(from).add(word.trim());
    }
    return '';
  });
  for (const other of needed) await add(other);
  const bare = text.replace(/^export \{\};\n/m, '').replace(/^export (?=declare|interface|type|class)/gm, '');
  parts.push(name === 'index' ? await exported() : bare.trim());
}
// Only what the index exports is public; the rest is there because the public names are made of it.
async function exported() {
  const text = await readFile(join(here, 'dist', 'index.d.ts'), 'utf8');
  const names = [...text.matchAll(/export (type )?\{([^}]*)\}/g)].flatMap(([, type, list]) =>
    list.split(',').map((word) => (type && !word.trim().startsWith('type ') ? `type ${word.trim()}` : word.trim()))
  );
  return `export {\n  ${names.sort((a, b) => a.replace('type ', '').localeCompare(b.replace('type ', ''))).join(',\n  ')}\n};`;
}
await add('index');
const imports = [...outside].map(([from, names]) => `import type { ${[...names].sort().join(', ')} } from '${from}';`);
await writeFile(join(folder, 'lowtide.d.ts'), `${[...imports, ...parts].join('\n\n')}\n`);
