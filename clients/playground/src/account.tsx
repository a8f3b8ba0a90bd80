// A phone's account on its screen: who is signed in, and the sheets to sign in, to bring along what a guest wrote,
// and to sign out.

import { isError, type Flow } from '@lowtide/client';
import type { ComponentChildren } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Holder, Who } from './holder';

const EXAMPLE = 'emma@example.com';

type Sheet =
  | { kind: 'address' }
  | { kind: 'code'; email: string; flow: Flow; code: string; mailed: boolean | null }
  | { kind: 'second'; ticket: string }
  | { kind: 'out'; waiting: number };

/** The strip below the title, and what it opens. `again` is called when the database was emptied or changed hands. */
export function Account({ holder, who, again }: { holder: Holder; who: Who; again: () => void }) {
  const [sheet, setSheet] = useState<Sheet | null>(null);
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState('');
  const [rows, setRows] = useState<number | null>(null);
  useEffect(() => {
    if (who.kind === 'nobody') void holder.rows().then(setRows, () => setRows(null));
  }, [who, busy]);

  /** One thing at a time; what fails is said. */
  const run = async (work: () => Promise<unknown>) => {
    if (busy) return;
    setBusy(true);
    setFailure('');
    try {
      await work();
    } catch (error) {
      setFailure(isError(error, 'network', 'timeout') ? 'There is no network. Try again when it is back.' : (error as Error).message);
    }
    setBusy(false);
    again();
  };
  const show = (next: Sheet | null) => {
    setFailure('');
    setSheet(next);
  };
  const ask = (email: string) =>
    run(async () => {
      const { flow, code } = await holder.ask(email);
      const asked: Sheet = { kind: 'code', email, flow, code: '', mailed: null };
      setSheet(asked);
      void code.then((found) =>
        setSheet((now) => (now === asked ? { ...asked, code: found, mailed: found !== '' } : now))
      );
    });
  const enter = (prove: () => ReturnType<Holder['enter']>) =>
    run(async () => {
      const seen = await prove();
      setSheet(seen.status === 'signed_in' ? null : { kind: 'second', ticket: seen.ticket });
    });
  const signOut = (discard: boolean) =>
    run(async () => {
      const done = await holder.signOut(discard);
      setSheet(done ? null : { kind: 'out', waiting: await holder.waiting() });
    });
  const askOut = () =>
    run(async () => {
      const waiting = await holder.waiting();
      if (waiting > 0 || who.kind === 'guest') return show({ kind: 'out', waiting });
      if (!(await holder.signOut())) show({ kind: 'out', waiting: await holder.waiting() });
    });
  const send = () =>
    run(async () => {
      if (!(await holder.send())) throw new Error('Not everything could be sent. Nothing was thrown away.');
      if (!(await holder.signOut())) throw new Error('Something was written meanwhile. Send that, too.');
      setSheet(null);
    });

  const wrong = failure && (
    <p class="wrong" role="alert">
      {failure}
    </p>
  );
  return (
    <>
      {who.kind === 'nobody' ? (
        <section class="nobody" aria-label="Nobody is signed in">
          <h2>Nobody is signed in</h2>
          <p data-rows={rows ?? ''}>
            {rows === null ? ' ' : rows === 0 ? 'Nothing of anybody is left on this phone: its database has 0 rows.' : `Its database has ${rows} rows.`}
          </p>
          <button class="strong" disabled={busy} onClick={() => run(() => holder.beGuest())}>
            Begin as a guest
          </button>
          <button class="soft" disabled={busy} onClick={() => show({ kind: 'address' })}>
            Sign in …
          </button>
          {!sheet && wrong}
        </section>
      ) : (
        <>
          <div class="account">
            <b class={`face ${who.kind}`} title={who.email}>
              {who.kind === 'guest' ? 'Guest' : who.email || who.name}
            </b>
            {who.kind === 'guest' && <button onClick={() => show({ kind: 'address' })}>Sign in …</button>}
            <button class="quiet" disabled={busy} onClick={askOut}>
              Sign out
            </button>
          </div>
          {!sheet && !holder.left && wrong}
        </>
      )}
      {sheet?.kind === 'address' && (
        <Over label="Sign in" close={() => show(null)}>
          <form
            onSubmit={(event) => {
              event.preventDefault();
              void ask(event.currentTarget.querySelector('input')!.value.trim());
            }}
          >
            <h2>Sign in</h2>
            <p>Any address will do: no mail leaves this machine.</p>
            <label>
              E-mail
              <input type="email" required defaultValue={EXAMPLE} autocomplete="off" />
            </label>
            {wrong}
            <button class="strong" disabled={busy}>
              Send me a code
            </button>
            <button type="button" class="soft" onClick={() => show(null)}>
              Cancel
            </button>
          </form>
        </Over>
      )}
      {(sheet?.kind === 'code' || sheet?.kind === 'second') && (
        <Over key={sheet.kind} label="Enter the code" close={() => show(null)}>
          <form
            onSubmit={(event) => {
              event.preventDefault();
              const code = event.currentTarget.querySelector('input')!.value;
              void enter(() => (sheet.kind === 'code' ? holder.enter(sheet.flow, code) : holder.secondFactor(sheet, code)));
            }}
          >
            <h2>{sheet.kind === 'code' ? 'Enter the code' : 'And the second factor'}</h2>
            {sheet.kind === 'code' ? (
              <p class="mail" aria-live="polite">
                {sheet.mailed === null && `A mail to ${sheet.email} is on its way …`}
                {sheet.mailed && `It was filled in from the mail to ${sheet.email}, which is in the outbox of this machine.`}
                {sheet.mailed === false && `It is in the mail to ${sheet.email}.`}
              </p>
            ) : (
              <p>The code of the authenticator app, or a recovery code.</p>
            )}
            <label>
              Code
              <input
                class="code"
                required
                ref={(input) => {
                  if (input && sheet.kind === 'code') input.value ||= sheet.code; // what was typed stands
                }}
                inputMode="numeric"
                autocomplete="one-time-code"
              />
            </label>
            {wrong}
            <button class="strong" disabled={busy}>
              Sign in
            </button>
            <button type="button" class="soft" onClick={() => show(null)}>
              Cancel
            </button>
          </form>
        </Over>
      )}
      {!sheet && holder.left && (
        <Over label="Bring it along?">
          <h2>{who.name} has an account already</h2>
          <p>What the guest wrote on this phone can become part of it, sent or not. Until you say so, nothing is sent.</p>
          {wrong}
          <button class="strong" disabled={busy} onClick={() => run(() => holder.bring())}>
            Bring it along
          </button>
          <button class="soft" disabled={busy} onClick={() => run(() => holder.leave())}>
            Leave it behind
          </button>
        </Over>
      )}
      {sheet?.kind === 'out' && (
        <Over label="Sign out?" close={() => show(null)}>
          <h2>{sheet.waiting > 0 ? `${count(sheet.waiting)} not sent yet` : 'A guest does not come back'}</h2>
          <p>
            {sheet.waiting > 0 && 'Signing out empties this phone’s database, and what is not sent is nowhere else. '}
            {who.kind === 'guest' && 'Nobody can be this guest again. Who signs in instead takes along what the guest wrote.'}
          </p>
          {wrong}
          {sheet.waiting > 0 && (
            <button class="strong" disabled={busy} onClick={send}>
              {busy ? 'Wait …' : 'Send, then sign out'}
            </button>
          )}
          <button class="danger" disabled={busy} onClick={() => signOut(true)}>
            {sheet.waiting > 0 ? 'Throw away and sign out' : 'Sign out all the same'}
          </button>
          <button class="soft" onClick={() => show(null)}>
            Stay
          </button>
        </Over>
      )}
    </>
  );
}

/** A sheet over the phone's screen. Without `close` it has to be answered. */
function Over({ label, close, children }: { label: string; close?: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const shown = dialog.current!;
    keepingFocus(() => shown.showModal());
    return () => keepingFocus(() => shown.close()); // gives the focus back to where it was
  }, []);
  return (
    <dialog
      ref={dialog}
      class="sheet"
      aria-label={label}
      onCancel={(event) => {
        event.preventDefault();
        close?.();
      }}
    >
      {children}
    </dialog>
  );
}

/** A sheet takes the focus, but not from the page around the phone: who presses keys there means that page. */
function keepingFocus(work: () => void): void {
  const elsewhere = parent === window || document.hasFocus() ? null : parent.document.activeElement;
  work();
  if (elsewhere instanceof (parent as Window & typeof globalThis).HTMLElement) elsewhere.focus();
}

const count = (changes: number) => (changes === 1 ? 'A change is' : `${changes} changes are`);
