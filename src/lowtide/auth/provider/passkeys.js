// The passkey button of the sign-in page. The form holds what to ask of the device, and is sent with its answer;
// in the e-mail field the browser offers passkeys by itself, where it can. Without this script the form stays hidden.
'use strict';

(() => {
  const form = document.getElementById('passkey');
  if (!form || !window.PublicKeyCredential || !navigator.credentials) return;
  const said = document.getElementById('passkey-said');
  const bytes = (text) =>
    Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (char) => char.charCodeAt(0));
  const text = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer)))
      .replaceAll('+', '-')
      .replaceAll('/', '_')
      .replaceAll('=', '');
  const asked = JSON.parse(form.dataset.options);
  const publicKey = {
    ...asked,
    challenge: bytes(asked.challenge),
    allowCredentials: asked.allowCredentials.map((one) => ({ ...one, id: bytes(one.id) }))
  };

  let asking;
  const ask = async (mediation) => {
    // A browser asks one thing at a time.
    asking?.abort();
    const mine = (asking = new AbortController());
    try {
      const { id, rawId, type, response } = await navigator.credentials.get({
        publicKey,
        mediation,
        signal: mine.signal
      });
      form.elements.credential.value = JSON.stringify({
        id,
        rawId: text(rawId),
        type,
        response: {
          clientDataJSON: text(response.clientDataJSON),
          authenticatorData: text(response.authenticatorData),
          signature: text(response.signature),
          userHandle: response.userHandle ? text(response.userHandle) : null
        }
      });
      form.submit();
    } catch {
      if (mine !== asking || mediation === 'conditional') return;
      said.textContent = 'No passkey was used. Try again, or choose another way.';
      offer();
    }
  };
  const offer = async () => {
    if (!('conditional' in form.dataset)) return;
    if (await PublicKeyCredential.isConditionalMediationAvailable?.()) ask('conditional');
  };

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    said.textContent = '';
    ask('optional');
  });
  form.hidden = false;
  form.closest('[hidden]')?.removeAttribute('hidden');
  offer();
})();
