// The starter app on a phone: plain SQL on the phone's own tables, and what it shows of them.

import type { Lowtide, Rejection } from '@lowtide/client';
import type { PowerSyncDatabase } from '@powersync/web';
import type { Holder } from './holder';
import { newId, type Lost } from './server';

export interface Step {
  id: string;
  text: string;
}

export interface Todo {
  id: string;
  title: string;
  done: boolean;
  notes: string;
  votes: number;
  labels: string[];
  steps: Step[];
}

export interface Member {
  id: string;
  user: string;
}

/** What one user has alone. */
export interface Note {
  id: string;
  user: string;
  text: string;
}

export interface Refusal {
  id: string;
  code: string;
  message: string;
  /** What was refused, in words. */
  content: string;
}

export interface Screen {
  list: { id: string; team: string; title: string } | null;
  todos: Todo[];
  members: Member[];
  notes: Note[];
  refusals: Refusal[];
  lost: Lost[];
}

type Row = Record<string, any>;

export class Todos {
  screen: Screen = { list: null, todos: [], members: [], notes: [], refusals: [], lost: [] };
  private readonly hearers = new Set<(screen: Screen) => void>();
  private readonly asked = new Map<string, string>();
  private readonly left = new Set<string>();
  private device = '';
  private stopped = false;
  private stopLooking = () => {};
  private lost = new Map<string, Lost[]>();
  private readonly columns = new Map<string, Set<string>>();

  constructor(
    readonly db: PowerSyncDatabase,
    private readonly lowtide: Lowtide,
    private readonly holder: Holder
  ) {}

  async start(): Promise<void> {
    for (const name of ['todo', 'todo_list', 'membership', 'note', 'lowtide_rejections']) {
      const rows = await this.db.getAll<Row>(`SELECT name FROM pragma_table_info(?)`, [name]);
      this.columns.set(name, new Set(rows.map((row) => row.name)));
    }
    const tables = [...this.columns.keys()];
    this.stopLooking = this.db.onChange({ onChange: () => this.look() }, { tables, throttleMs: 30 });
    await this.look();
  }

  /** Whether the app lets a user have notes of their own. */
  get keepsNotes(): boolean {
    const columns = this.columns.get('note');
    return Boolean(columns?.has('user_id') && columns.has('text'));
  }

  /** Before the database is closed: look at it no more. */
  stop(): void {
    this.stopped = true;
    this.hearers.clear();
    this.stopLooking();
  }

  onScreen(hear: (screen: Screen) => void): () => void {
    this.hearers.add(hear);
    return () => this.hearers.delete(hear);
  }

  // What a person does. Each is one local transaction, with or without a network.

  async add(title: string): Promise<void> {
    const { list } = this.screen;
    if (!list) return;
    const values: Row = { team_id: list.team, list_id: list.id, title, done: 0, notes: '', labels: '[]', votes: 0, steps: '[]' };
    const names = Object.keys(values).filter((name) => this.columns.get('todo')!.has(name));
    const marks = names.map(() => '?').join(', ');
    const sql = `INSERT INTO todo (id, ${names.join(', ')}) VALUES (?, ${marks})`;
    await this.db.execute(sql, [newId(), ...names.map((name) => values[name])]);
  }

  async change(id: string, values: Partial<Record<'title' | 'done' | 'notes' | 'labels' | 'steps', unknown>>): Promise<void> {
    const sets = Object.keys(values).map((name) => `${name} = ?`).join(', ');
    await this.db.execute(`UPDATE todo SET ${sets} WHERE id = ?`, [...Object.values(values), id]);
  }

  async vote(id: string): Promise<void> {
    await this.db.execute('UPDATE todo SET votes = votes + 1 WHERE id = ?', [id]);
  }

  async label(id: string, label: string, add: boolean): Promise<void> {
    const labels = this.todo(id)?.labels.filter((one) => one !== label) ?? [];
    if (add) labels.push(label);
    await this.change(id, { labels: JSON.stringify(labels) });
  }

  async addStep(id: string, text: string): Promise<void> {
    const steps = this.todo(id)?.steps ?? [];
    await this.change(id, { steps: JSON.stringify([...steps, { id: newId(), text }]) });
  }

  async removeStep(id: string, step: string): Promise<void> {
    const steps = this.todo(id)?.steps ?? [];
    await this.change(id, { steps: JSON.stringify(steps.filter((one) => one.id !== step)) });
  }

  async moveStep(id: string, step: string): Promise<void> {
    const steps = [...(this.todo(id)?.steps ?? [])];
    const at = steps.findIndex((one) => one.id === step);
    if (at < 1) return;
    steps.splice(at - 1, 2, steps[at]!, steps[at - 1]!);
    await this.change(id, { steps: JSON.stringify(steps) });
  }

  async remove(id: string): Promise<void> {
    await this.db.execute('DELETE FROM todo WHERE id = ?', [id]);
  }

  async addNote(text: string): Promise<void> {
    const sql = 'INSERT INTO note (id, user_id, text) VALUES (?, ?, ?)';
    await this.db.execute(sql, [`playground-${newId()}`, this.holder.who.id, text]);
  }

  async removeNote(id: string): Promise<void> {
    await this.db.execute('DELETE FROM note WHERE id = ?', [id]);
  }

  /** Let somebody into the team; the server refuses it from whoever did not found the team. */
  async invite(user: string): Promise<void> {
    const { list } = this.screen;
    if (!list) return;
    await this.db.execute('INSERT INTO membership (id, team_id, user_id) VALUES (uuid(), ?, ?)', [list.team, user]);
  }

  async dismiss(refusal: string): Promise<void> {
    await this.lowtide.rejections.dismiss(refusal);
  }

  /** Write a value that lost a conflict back. Asks the server, so it needs a network. */
  async restore(lost: Lost): Promise<void> {
    await this.lowtide.conflicts.restore(lost.id);
    this.leave(lost);
  }

  leave(lost: Lost): void {
    this.left.add(lost.id);
    this.show({});
  }

  private todo(id: string): Todo | undefined {
    return this.screen.todos.find((one) => one.id === id);
  }

  // What is shown.

  /** By itself after every change of the tables; the database may be emptied without one. */
  async look(): Promise<void> {
    try {
      await this.read();
    } catch (error) {
      if (!this.stopped) throw error;
    }
  }

  private async read(): Promise<void> {
    this.device = await this.db.getClientId();
    const [lists, todos, members, notes, refusals] = await Promise.all([
      this.db.getAll<Row>('SELECT * FROM todo_list ORDER BY title LIMIT 1'),
      this.db.getAll<Row>('SELECT * FROM todo ORDER BY id'),
      this.db.getAll<Row>('SELECT * FROM membership ORDER BY user_id'),
      this.keepsNotes ? this.db.getAll<Row>('SELECT * FROM note ORDER BY id') : [],
      this.lowtide.rejections.list()
    ]);
    const list = lists[0];
    this.show({
      list: list ? { id: list.id, team: list.team_id, title: list.title } : null,
      todos: todos.map(todoOf),
      members: members.map(({ id, user_id }) => ({ id, user: user_id })),
      notes: notes.map(({ id, user_id, text }) => ({ id, user: user_id, text: text ?? '' })),
      refusals: refusals.map(refusalOf)
    });
    await this.askLost();
  }

  private show(changed: Partial<Screen>): void {
    const standing = new Set((changed.todos ?? this.screen.todos).map((one) => one.id));
    const lost = [...this.lost.values()].flat();
    const mine = lost.filter(
      (one) =>
        standing.has(one.record) && one.lost_by === this.device && one.restored_at === null && !this.left.has(one.id)
    );
    this.screen = { ...this.screen, ...changed, lost: mine };
    for (const hear of this.hearers) hear(this.screen);
  }

  /** Ask for what lost in records that have changed since they were last asked for. */
  private async askLost(): Promise<void> {
    if (this.stopped || !this.db.currentStatus.connected) return;
    const { count } = await this.db.getUploadQueueStats();
    if (count > 0) return;
    for (const todo of this.screen.todos) {
      const now = JSON.stringify(todo);
      if (this.asked.get(todo.id) === now) continue;
      this.asked.set(todo.id, now);
      try {
        const lost: Lost[] = [];
        for await (const one of this.lowtide.conflicts.of('todo', todo.id)) lost.push(one);
        this.lost.set(todo.id, lost);
        this.show({});
      } catch {
        this.asked.delete(todo.id); // asked again at the next change
        return;
      }
    }
  }
}

function todoOf(row: Row): Todo {
  return {
    id: row.id,
    title: row.title ?? '',
    done: Boolean(row.done),
    notes: row.notes ?? '',
    votes: row.votes ?? 0,
    labels: listOf(row.labels),
    steps: listOf(row.steps)
  };
}

function refusalOf({ id, code, message, op, model, data }: Rejection): Refusal {
  const content = Object.entries(data ?? {}).map(([name, value]) => `${name}: ${String(value)}`).join(', ');
  return { id, code, message, content: `${op} ${model} ${content}`.slice(0, 160) };
}

function listOf(text: unknown): any[] {
  try {
    const list: unknown = JSON.parse(String(text ?? '[]'));
    return Array.isArray(list) ? list : [];
  } catch {
    return [];
  }
}
