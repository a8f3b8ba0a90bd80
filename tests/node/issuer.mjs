// A certified OpenID provider as a process: what Lowtide signs in with, and never sees the inside of.
//
// `node issuer.mjs REDIRECT_URI` prints its address as one line. Whoever signs in is the account named by the login.

import { createServer } from 'node:http';
import { Provider } from 'oidc-provider';

const server = createServer((request, response) => provider.callback()(request, response));
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const address = `http://127.0.0.1:${server.address().port}`;

const claims = (login) => ({
  sub: login,
  email: `${login}@example.com`,
  email_verified: login !== 'mallory',
  name: `${login} Example`
});

const provider = new Provider(address, {
  clients: [
    {
      client_id: 'lowtide',
      client_secret: 'a-secret: with/odd+characters%',
      redirect_uris: [process.argv[2]],
      token_endpoint_auth_method: 'client_secret_basic'
    },
    {
      client_id: 'public',
      redirect_uris: [process.argv[2]],
      token_endpoint_auth_method: 'none'
    }
  ],
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
  cookies: { keys: ['tests only'] },
  features: { devInteractions: { enabled: true } },
  findAccount: (_, id) => ({ accountId: id, claims: () => claims(id) }),
  pkce: { required: () => true }
});

console.log(address);
