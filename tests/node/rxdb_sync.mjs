import { replicateRxCollection } from 'rxdb/plugins/replication';
import { Subject } from 'rxjs';

/** Keep `collection` and the server together. `clientId`: one for each local database, kept as long as it is. */
export function replicate(collection, { url, clientId, getToken, retryTime = 5_000 }) {
  const address = `${url}/v1/bridges/rxdb/${collection.name}/${collection.schema.version}`;
  const news = new Subject();
  const left = new AbortController();
  let turn = Promise.resolve();
  const alone = (work) => (turn = turn.then(work, work)); // what is pushed meanwhile would look as if it were gone
  const answered = new Map(); // id -> the version that a push was answered with
  // What was sent before such an answer, and comes after it, is old by then: it would take the user's next edit back.
  const inOrder = (documents) =>
    documents.map((one) => {
      if (one._deleted) answered.delete(one.id);
      const late = Number(one.lowtide_version) <= (answered.get(one.id) ?? 0);
      return late ? { id: '\u200blowtide', _deleted: true } : one;
    });
  const ask = async (path, options) => {
    const headers = { authorization: `Bearer ${await getToken()}`, 'x-lowtide-client': clientId };
    if (options?.body) headers['content-type'] = 'application/json';
    const answer = await fetch(address + path, { signal: left.signal, ...options, headers });
    if (!answer.ok) throw Object.assign(new Error(await answer.text()), { status: answer.status });
    return answer;
  };
  const pull = async (checkpoint, limit) => {
    const page = await (await ask(`/pull?lwt=${checkpoint?.lwt ?? 0}&id=${checkpoint?.id ?? ''}&limit=${limit}`)).json();
    return { ...page, documents: inOrder(page.documents) };
  };
  const pullAnew = async () => {
    // Everything, and the end of what is not there any more.
    answered.clear();
    const documents = [];
    let page = {};
    do {
      page = await pull(page.checkpoint, 1000);
      documents.push(...page.documents);
    } while (page.documents.length >= 1000);
    const there = new Set(documents.map(({ id }) => id));
    const gone = (await collection.find().exec()).filter(({ primary }) => !there.has(primary));
    documents.push(...gone.map(({ primary }) => ({ id: primary, _deleted: true })));
    return { documents, checkpoint: page.checkpoint };
  };
  const state = replicateRxCollection({
    collection,
    replicationIdentifier: address,
    live: true,
    retryTime,
    pull: {
      stream$: news.asObservable(),
      handler: (checkpoint, limit) =>
        pull(checkpoint, limit).catch((error) => {
          if (error.status !== 410) throw error;
          return alone(pullAnew);
        })
    },
    push: {
      handler: (rows) =>
        alone(async () => {
          const conflicts = await (await ask('/push', { method: 'POST', body: JSON.stringify(rows) })).json();
          for (const { id, lowtide_version } of conflicts) answered.set(id, Number(lowtide_version ?? 0));
          return conflicts;
        })
    }
  });
  const listen = async () => {
    const { body } = await ask('/pullStream');
    news.next('RESYNC'); // what came while nobody listened
    let text = '';
    for await (const part of body.pipeThrough(new TextDecoderStream())) {
      const events = (text + part).split('\n\n');
      text = events.pop();
      for (const event of events)
        if (event.startsWith('data: ')) {
          const { documents, checkpoint } = JSON.parse(event.slice('data: '.length));
          news.next({ documents: inOrder(documents), checkpoint });
        }
    }
  };
  const follow = async () => {
    while (!state.isStopped()) {
      await listen().catch((error) => state.isStopped() || state.subjects.error.next(error));
      await new Promise((resolve) => setTimeout(resolve, retryTime * Math.random()));
    }
  };
  state.onCancel.push(() => left.abort());
  follow();
  return state;
}
