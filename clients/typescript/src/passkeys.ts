// What a device does when a passkey is made or used: JSON of the server in, JSON for the server out.

import { LowtideError } from './errors.js';
import { base64url, fromBase64url } from './random.js';

/** Options and credentials as WebAuthn Level 3 writes them in JSON. */
export type PasskeyJson = Record<string, unknown>;

/** Done by the browser, or on phones by a package such as `react-native-passkeys`; null when nobody chose one. */
export interface PasskeyCeremony {
  // (Each package has types of its own for the same JSON.)
  create(options: any): Promise<object | null>;
  get(options: any): Promise<object | null>;
}

/**
 * What the ceremony gave. Throws `aborted` where nobody chose a passkey: browsers say so with `NotAllowedError`; and
 * `not_retryable` where this device has one of the account already.
 */
export async function chosen(ceremony: Promise<object | null>): Promise<object> {
  const credential = await ceremony.catch((cause: unknown) => {
    if (cause instanceof LowtideError) throw cause;
    const said = String(cause);
    if (/^(NotAllowed|Abort)|cancel/i.test(said)) return null;
    if (!said.startsWith('InvalidState')) throw new LowtideError('unsupported', 'Passkeys do not work here.', { cause });
    throw new LowtideError('not_retryable', 'This device has a passkey of this account already.', { cause });
  });
  if (!credential) throw new LowtideError('aborted', 'No passkey was chosen.');
  return credential;
}

/** With `navigator.credentials`. `mediation: 'conditional'` offers passkeys in a form's field. */
export function browserPasskeys(
  more: { mediation?: 'conditional' | 'optional' | 'required' | 'silent'; signal?: AbortSignal } = {}
): PasskeyCeremony {
  const credentials = () => {
    const found = (globalThis.navigator as Navigator | undefined)?.credentials;
    if (!found) throw new LowtideError('unsupported', 'Passkeys are not supported here.');
    return found;
  };
  return {
    async create(options: PasskeyJson) {
      const publicKey = decode(options) as unknown as PublicKeyCredentialCreationOptions;
      return encode(await credentials().create({ publicKey, ...(more.signal && { signal: more.signal }) }));
    },
    async get(options: PasskeyJson) {
      const publicKey = decode(options) as unknown as PublicKeyCredentialRequestOptions;
      return encode(await credentials().get({ publicKey, ...more }));
    }
  };
}

/** The members that are bytes, wherever they are: `parseCreationOptionsFromJSON` is not everywhere yet. */
function decode(options: PasskeyJson): PasskeyJson {
  const named = (list: unknown) =>
    (list as { id: string }[] | undefined)?.map((one) => ({ ...one, id: fromBase64url(one.id) }));
  const { challenge, user, excludeCredentials, allowCredentials, ...rest } = options;
  return {
    ...rest,
    challenge: fromBase64url(challenge as string),
    ...(user !== undefined && { user: { ...(user as object), id: fromBase64url((user as { id: string }).id) } }),
    ...(excludeCredentials !== undefined && { excludeCredentials: named(excludeCredentials) }),
    ...(allowCredentials !== undefined && { allowCredentials: named(allowCredentials) })
  };
}

function encode(credential: Credential | null): object | null {
  if (!credential) return null;
  const { id, rawId, type, response, authenticatorAttachment } = credential as PublicKeyCredential;
  const answer = response as AuthenticatorAttestationResponse & AuthenticatorAssertionResponse;
  const text = (bytes: ArrayBuffer | null | undefined) => bytes && base64url(new Uint8Array(bytes));
  const { clientDataJSON, attestationObject, authenticatorData, signature, userHandle } = answer;
  const json = {
    id,
    rawId: text(rawId),
    type,
    authenticatorAttachment: authenticatorAttachment ?? undefined,
    clientExtensionResults: (credential as PublicKeyCredential).getClientExtensionResults?.() ?? {},
    response: attestationObject
      ? {
          clientDataJSON: text(clientDataJSON),
          attestationObject: text(attestationObject),
          transports: answer.getTransports?.() ?? []
        }
      : {
          clientDataJSON: text(clientDataJSON),
          authenticatorData: text(authenticatorData),
          signature: text(signature),
          userHandle: text(userHandle) ?? undefined
        }
  };
  return json;
}
