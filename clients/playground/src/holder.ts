// Who holds a phone: somebody with a development token, or somebody with an account, who begins as a guest, signs
// in, and signs out. Everything here is what an app does with `Session` and `Lowtide`.

import { isError, type Flow, type Lowtide, type Session, type SignInResult } from '@lowtide/client';

export interface Who {
  kind: 'token' | 'guest' | 'account' | 'nobody';
  /** The user's id; empty where nobody is signed in. */
  id: string;
  /** What to call them, in a word. */
  name: string;
  /** The address of an account. */
  email: string;
}

const CODE = /\b(\d{4} ?\d{4}|\d{3} ?\d{3})\b/;
const LOOKS = 20; // at the outbox, until a mail is there
const SENDING = 5_000; // milliseconds for what is to be sent before a sign-out

interface Mail {
  to: string;
  text: string;
  subject: string;
  sent_at: number;
}

export class Holder {
  constructor(
    private readonly token: string,
    private readonly session: Session | null,
    private readonly lowtide: Lowtide,
    /** How many rows the phone's database holds, of anybody. */
    readonly rows: () => Promise<number>,
    /** The network of the machine: a mailbox is not on the phone. */
    private readonly outside: typeof fetch
  ) {}

  get who(): Who {
    if (!this.session) return { kind: 'token', id: this.token, name: this.token, email: '' };
    const { user } = this.session;
    if (!user) return { kind: 'nobody', id: '', name: 'nobody', email: '' };
    if (user.anonymous) return { kind: 'guest', id: user.id, name: 'guest', email: '' };
    const email = user.email ?? '';
    return { kind: 'account', id: user.id, name: email.split('@')[0] || 'account', email };
  }

  /** A guest's account was left behind by a sign-in, and nobody has said what is to become of it. */
  get left(): boolean {
    return Boolean(this.session?.state.status !== 'signed_out' && this.session?.state.guest);
  }

  onChange(hear: () => void): () => void {
    return this.session?.onChange(hear) ?? (() => {});
  }

  /** A phone that was never anybody's begins as a guest's, without a question; if it can, which `begun` waits for. */
  begin(): void {
    const state = this.session?.state;
    if (state?.status === 'signed_out' && !state.ended) this.begun = this.beGuest().catch(() => {});
  }

  begun: Promise<void> = Promise.resolve();

  async beGuest(): Promise<void> {
    await this.session!.signIn.anonymous();
  }

  /** Have a code mailed. Gives the flow to finish, and the code, if the mail went to the outbox of development. */
  async ask(email: string): Promise<{ flow: Flow; code: Promise<string> }> {
    const before = (await this.mails(email))[0]?.sent_at ?? 0;
    const flow = await this.session!.signIn.startEmail(email);
    return { flow, code: this.mailed(email, before) };
  }

  async enter(flow: Flow, code: string): Promise<SignInResult> {
    const result = await this.session!.signIn.finishEmail(flow, code.replace(/\D/g, ''));
    return this.entered(result);
  }

  async secondFactor(needed: { ticket: string }, code: string): Promise<SignInResult> {
    return this.entered(await this.session!.signIn.secondFactor(needed, code.trim()));
  }

  /** What the guest wrote becomes the account's, also what is not sent yet. */
  async bring(): Promise<void> {
    await this.session!.signIn.merge();
  }

  /** What the guest wrote stays the guest's, whom nobody can be again; what was not sent is thrown away. */
  async leave(): Promise<void> {
    await this.session!.signIn.forgetGuest();
    await this.lowtide.discardOther();
  }

  /** How many changes wait to be sent. */
  waiting(): Promise<number> {
    return this.lowtide.waiting();
  }

  /** Send what waits. Has everything gone? */
  send(): Promise<boolean> {
    return this.lowtide.flush(SENDING);
  }

  /** Sign out, and empty the database. False, and nothing is done, where changes wait that were not sent. */
  async signOut(discard = false): Promise<boolean> {
    try {
      await this.lowtide.signOut({ discard });
      return true;
    } catch (error) {
      if (isError(error, 'unsent_changes')) return false;
      throw error;
    }
  }

  private async entered(result: SignInResult): Promise<SignInResult> {
    if (this.left && (await this.rows()) === 0) await this.leave(); // a guest who wrote nothing is not asked about
    return result;
  }

  private async mailed(email: string, before: number): Promise<string> {
    for (let look = 0; look < LOOKS; look++) {
      const [mail] = await this.mails(email);
      const code = mail && mail.sent_at > before ? CODE.exec(`${mail.subject}\n${mail.text}`)?.[1] : undefined;
      if (code) return code.replace(' ', '');
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
    return '';
  }

  /** What the outbox of development has for an address, newest first; nothing where mail is really sent. */
  private async mails(email: string): Promise<Mail[]> {
    const answer = await this.outside('/dev/outbox.json').catch(() => null);
    const { messages = [] } = answer?.ok ? ((await answer.json()) as { messages: Mail[] }) : {};
    return messages.filter((one) => one.to.toLowerCase() === email.toLowerCase());
  }
}
