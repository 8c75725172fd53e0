// A real OpenID Connect provider for the tests: oidc-provider with two users, and a way to have tokens signed that it would
// never give.   node provider.mjs PORT CERTIFICATE KEY TOOLS [WHERE THE PAGE IS LED BACK TO]
import { createServer } from 'node:https';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [port, certificate, key, tools, page] = process.argv.slice(2);
const require = createRequire(`${tools}/`);
const load = async (name) => import(pathToFileURL(require.resolve(name)));
const { default: Provider } = await load('oidc-provider');
const jose = await load('jose');

const issuer = `https://localhost:${port}`;
const people = {
  Alice: { preferred_username: 'Alice', name: 'Alice Smith', email: 'alice@example.org', groups: ['gis-course', 'staff'] },
  root: { preferred_username: 'root', name: 'not root', groups: [] },
};
const make = async (kid) => {
  const { privateKey } = await jose.generateKeyPair('RS256', { extractable: true });
  return { ...(await jose.exportJWK(privateKey)), kid, alg: 'RS256', use: 'sig' };
};
const keys = [await make('first')];
const secret = 'the provider knows vcld by this';
const configuration = {
  clients: [{
    client_id: 'vcld', client_secret: secret, token_endpoint_auth_method: 'client_secret_post',
    application_type: page ? 'web' : 'native',
    grant_types: ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code'],
    response_types: ['code'], redirect_uris: [page ?? 'http://127.0.0.1/'],
  }],
  jwks: { keys },
  claims: { openid: ['sub'], profile: ['preferred_username', 'name', 'groups'], email: ['email'] },
  conformIdTokenClaims: false,
  features: { deviceFlow: { enabled: true }, devInteractions: { enabled: true } },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...people[id] }) }),
  pkce: { required: () => true },
  ttl: { Session: 600, Interaction: 600, Grant: 600, AccessToken: 600, IdToken: 600, DeviceCode: 600 },
};
const provider = new Provider(issuer, configuration);

// The second key is a new one of the provider's: what a rotation looks like to those who know the first.
const second = await make('second');
const stranger = await make('first');
let rotated = false;
const published = () => ({ keys: [...keys, ...(rotated ? [second] : [])].map(({ kty, n, e, kid, alg, use }) => ({ kty, n, e, kid, alg, use })) });

async function mint(query) {
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    iss: query.get('iss') ?? issuer, aud: query.get('aud') ?? 'vcld', iat: now,
    exp: now + Number(query.get('exp') ?? 300), sub: 'Alice', ...people.Alice,
  };
  if (query.has('text-exp')) claims.exp = 'never';
  const header = { alg: query.get('alg') ?? 'RS256', kid: query.get('kid') ?? 'first' };
  const by = { first: keys[0], second, stranger }[query.get('by') ?? 'first'];
  if (header.alg === 'none') {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    return `${part(header)}.${part(claims)}.`;
  }
  if (header.alg === 'HS256') {
    // The public key taken for a shared secret.
    const pem = await jose.exportSPKI(await jose.importJWK({ kty: by.kty, n: by.n, e: by.e }, 'RS256', { extractable: true }));
    return new jose.SignJWT(claims).setProtectedHeader(header).sign(Buffer.from(pem));
  }
  return new jose.SignJWT(claims).setProtectedHeader(header).sign(await jose.importJWK(by, 'RS256'));
}

const answer = provider.callback();
createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, async (request, response) => {
  const url = new URL(request.url, issuer);
  if (url.pathname === '/test/mint') {
    response.end(await mint(url.searchParams));
  } else if (url.pathname === '/test/rotate') {
    rotated = true;
    response.end('done');
  } else if (url.pathname === '/jwks') {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(published()));
  } else {
    answer(request, response);
  }
}).listen(Number(port), '127.0.0.1', () => console.log(issuer));
