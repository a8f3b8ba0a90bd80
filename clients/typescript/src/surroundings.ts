// What is known of the network and the screen, on each platform.

export interface Surroundings {
  /** False only where the platform is sure. */
  readonly online: boolean;
  readonly metered: boolean;
  /** Is the app in front? */
  readonly visible: boolean;
}

export interface Watch {
  now(): Surroundings;
  /** Call `listener` after each change, until the function that is returned is called. */
  subscribe(listener: () => void): () => void;
  /** What becomes of the connection while the app is not in front, unless the app says otherwise. */
  readonly background: 'pause' | 'stay';
}

interface NetworkInformation extends EventTarget {
  readonly type?: string;
  readonly saveData?: boolean;
}

/** A browser's: `navigator.onLine`, the Network Information API where it is, and the page's visibility. */
export function browserSurroundings(): Watch {
  const { navigator, document } = globalThis;
  const network = (navigator as Navigator & { connection?: NetworkInformation }).connection;
  const places: [EventTarget | undefined, string][] = [
    [globalThis.window, 'online'],
    [globalThis.window, 'offline'],
    [document, 'visibilitychange'],
    [network, 'change']
  ];
  return {
    background: 'stay', // tabs share one connection
    now: () => ({
      online: navigator.onLine,
      metered: network?.saveData === true || network?.type === 'cellular',
      visible: document.visibilityState !== 'hidden'
    }),
    subscribe(listener) {
      for (const [target, name] of places) target?.addEventListener(name, listener);
      return () => {
        for (const [target, name] of places) target?.removeEventListener(name, listener);
      };
    }
  };
}

/** `@react-native-community/netinfo`, as far as it is needed. */
export interface NetInfoLike {
  addEventListener(
    listener: (state: { isConnected: boolean | null; details: { isConnectionExpensive?: boolean } | null }) => void
  ): () => void;
}

/** React Native's `AppState`, as far as it is needed. */
export interface AppStateLike {
  readonly currentState: string | null;
  addEventListener(type: 'change', listener: (state: string) => void): { remove(): void };
}

/** React Native's, from `NetInfo` and `AppState`. */
export function nativeSurroundings(netInfo: NetInfoLike | null, appState: AppStateLike): Watch {
  let [online, metered] = [true, false];
  return {
    background: 'pause',
    now: () => ({ online, metered, visible: appState.currentState !== 'background' }),
    subscribe(listener) {
      const stop = netInfo?.addEventListener((state) => {
        online = state.isConnected !== false;
        metered = state.details?.isConnectionExpensive === true;
        listener();
      });
      const shown = appState.addEventListener('change', listener);
      return () => {
        stop?.();
        shown.remove();
      };
    }
  };
}

/** Where nothing is known: always online and in front. */
export function constantSurroundings(): Watch {
  return { background: 'stay', now: () => ({ online: true, metered: false, visible: true }), subscribe: () => () => {} };
}

/** The browser's if this is a page, and nothing is known otherwise. */
export function surroundings(): Watch {
  const page = typeof document === 'object' && typeof window === 'object' && typeof window.addEventListener === 'function';
  return page ? browserSurroundings() : constantSurroundings();
}
