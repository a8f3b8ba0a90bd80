// Listeners by name.

export type Listener<T> = (event: T) => void;

/** Tells listeners. One that throws does not keep the others from hearing. */
export class Events<Map extends object> {
  readonly #listeners = new Set<{ name: keyof Map; listener: Listener<never> }>();

  /** Hear of `name`, until the function that is returned is called. */
  on<Name extends keyof Map>(name: Name, listener: Listener<Map[Name]>): () => void {
    const entry = { name, listener: listener as Listener<never> };
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  emit<Name extends keyof Map>(name: Name, event: Map[Name]): void {
    for (const entry of [...this.#listeners]) {
      if (entry.name !== name) continue;
      try {
        (entry.listener as Listener<Map[Name]>)(event);
      } catch (error) {
        // As with an event of the platform: reported, and nobody else's business.
        setTimeout(() => {
          throw error;
        });
      }
    }
  }
}
