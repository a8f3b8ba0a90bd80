"""The page on JavaScript: its program is compiled strictly with what the command line hands out, and run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.docs.pages import DOCS, ROOT, blocks
from tests.docs.story import Story

PAGE = DOCS / "javascript.md"
END = """
await lowtide.close();
await db.close();
session.close();
declare const process: { env: { SERVER: string } };
async function ask(_: string): Promise<string> {
  for (;;) {
    const outbox = await (await fetch(`${process.env.SERVER}/dev/outbox`)).text();
    const found = /(\\d{4}) ?(\\d{4})/.exec(outbox);
    if (found) return found.slice(1).join('');
  }
}
async function show(text: string): Promise<void> {
  for (;;) {
    const { messages } = await (await fetch(`${process.env.SERVER}/dev/outbox.json`)).json();
    if (messages[0].to !== 'ann@work.example') continue;
    const found = /\\S+link\\?token=(\\w+)/.exec(messages[0].text)!;
    const body = new URLSearchParams({ token: found[1]!, number: /choose (\\d+)/.exec(text)![1]! });
    await fetch(found[0].split('?')[0]!, { method: 'POST', body });
    return;
  }
}
"""
PHONE = """
declare module '@react-native-community/netinfo' {
  type Details = { isConnectionExpensive: boolean; cellularGeneration: string };
  type State = { isConnected: boolean | null; details: Details | null };
  const NetInfo: { addEventListener(listener: (state: State) => void): () => void };
  export default NetInfo;
}
declare module '@powersync/react-native' {
  export { PowerSyncDatabase } from '@powersync/node';
}
declare module 'expo-background-task' {
  export enum BackgroundTaskResult { Success = 1, Failed = 2 }
}
declare module 'expo-secure-store' {
  export type Options = { keychainService?: string; keychainAccessible?: number };
  export const AFTER_FIRST_UNLOCK_THIS_DEVICE_ONLY: number;
  export function getItemAsync(key: string, options?: Options): Promise<string | null>;
  export function setItemAsync(key: string, value: string, options?: Options): Promise<void>;
  export function deleteItemAsync(key: string, options?: Options): Promise<void>;
}
declare module 'expo-task-manager' {
  export function defineTask<T>(name: string, task: (body: { data: T }) => Promise<unknown>): void;
}
declare module 'react-native-get-random-values';
declare module 'react-native-passkeys' {
  export interface CreationJSON { challenge: string; rp: { name: string } }
  export interface RequestJSON { challenge: string; rpId?: string }
  export interface CredentialJSON { id: string }
  export function create(request: CreationJSON & { signal?: AbortSignal }): Promise<CredentialJSON | null>;
  export function get(request: RequestJSON): Promise<CredentialJSON | null>;
}
declare module 'react-native' {
  type Status = 'active' | 'background' | 'inactive' | 'unknown' | 'extension';
  export const AppState: {
    currentState: Status;
    addEventListener(
      type: 'change' | 'memoryWarning' | 'blur',
      listener: (state: Status) => void
    ): { remove: () => void };
  };
  export const Platform: { OS: 'ios' | 'android' };
}
"""
"""What the page's program for phones imports, as those packages declare it."""
OPTIONS = {
    "target": "es2022",
    "module": "nodenext",
    "lib": ["es2023", "dom", "dom.iterable", "dom.asynciterable"],
    "types": [],
    "strict": True,
    "noUncheckedIndexedAccess": True,
    "exactOptionalPropertyTypes": True,
    "skipLibCheck": True,
}


def test_the_program_of_the_page_runs_as_it_says(tmp_path: Path) -> None:
    """Generated schema, package and page fit each other, type by type; what is shown is what comes."""
    found = blocks(PAGE)
    (app,) = [block.text for block in found if block.words == ("javascript-app",)]
    program = "".join(block.text for block in found if (block.language, block.words) == ("ts", ("app",)))
    shown = "".join(block.text for block in found if block.words == ("shown",))
    with Story(tmp_path) as story:
        story.run("lowtide new notes\ncd notes")
        (story.folder / "app.py").write_text(app, "utf-8")
        story.start("server", "lowtide dev")
        story.run("lowtide client typescript -o phone\ncd phone\nnpm install @powersync/node")
        program = program.replace("8420", story.port)
        (story.folder / "main.ts").write_text(program + END, "utf-8")
        (story.folder / "package.json").write_text('{"type": "module"}', "utf-8")
        # Declarations are not checked where the SDK's are not; under another name they are.
        (story.folder / "declared.ts").write_text((story.folder / "lowtide.d.ts").read_text("utf-8"), "utf-8")
        (phone,) = [block.text for block in found if block.words == ("native",)]
        (story.folder / "phone.ts").write_text(phone, "utf-8")
        (story.folder / "packages.d.ts").write_text(PHONE, "utf-8")
        files = ["main.ts", "declared.ts", "phone.ts", "packages.d.ts"]
        options = {"compilerOptions": OPTIONS, "files": files}
        (story.folder / "tsconfig.json").write_text(json.dumps(options), "utf-8")
        compiled = subprocess.run(
            [ROOT / "node_modules/.bin/tsc"], cwd=story.folder, capture_output=True, text=True, check=False
        )
        assert compiled.returncode == 0, compiled.stdout
        story.expect("server", "notes is ready (… s)")
        story.run("node main.js")
        said = [line for line in story.shown.splitlines() if line and not line.startswith("[PowerSync]")]
        assert said == shown.splitlines()
