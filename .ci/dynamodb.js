// For t_dynamodb in test.sh. Two programs:
//   node dynamodb.js serve FILE           dynalite with the table rdv, and a proxy for each mode below on a port of
//                                         its own; FILE lists them. FILE.log has a line for each request.
//   node dynamodb.js sdk PORT WORDS...    the AWS SDK: scan | get KEY | put KEY ATTRIBUTE TEXT | fill KEY BYTES
// Each proxy signs each request again with the SDK's own signer and refuses those that differ.
'use strict';
const http = require('http'), fs = require('fs');
const sdk = require('@aws-sdk/client-dynamodb');
const { SignatureV4 } = require('@smithy/signature-v4');
const { Sha256 } = require('@aws-crypto/sha256-js');

const SECRETS = { AKID: 'secret/+=', OLD: 'oldsecret', NEW: 'newsecret' };
const MODES = ('pass pass2 throttle err500 drop cutanswer hang pieces extra chunked badchunk nolen denied badsig norole '
  + 'expired always500 hangremove lostdelete html403 redirect').split(' ');

function client(port) {
  return new sdk.DynamoDBClient({ endpoint: `http://127.0.0.1:${port}`, region: 'us-east-1',
    credentials: { accessKeyId: 'AKID', secretAccessKey: SECRETS.AKID } });
}

async function signedAgain(req, body) {
  const m = /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/dynamodb\/aws4_request, SignedHeaders=([^,]+), Signature=[0-9a-f]{64}$/
    .exec(req.headers.authorization || '');
  if (!m || !SECRETS[m[1]]) return 'no authorization of ours';
  const d = req.headers['x-amz-date'], names = m[4].split(';'), headers = {};
  for (const need of ['content-type', 'host', 'x-amz-date', 'x-amz-target']) if (!names.includes(need)) return need + ' is not signed';
  if (m[1] !== 'AKID' && req.headers['x-amz-security-token'] !== 'session+token/==') return 'the token is missing';
  if (req.headers['x-amz-security-token'] && !names.includes('x-amz-security-token')) return 'the token is not signed';
  for (const n of names) headers[n] = req.headers[n];
  const when = new Date(d.replace(/^(....)(..)(..T..)(..)(..Z)$/, '$1-$2-$3:$4:$5'));
  if (Math.abs(when - Date.now()) > 60000) return 'the date is off';
  const signer = new SignatureV4({ service: 'dynamodb', region: m[3], sha256: Sha256, applyChecksum: false,
    credentials: { accessKeyId: m[1], secretAccessKey: SECRETS[m[1]] } });
  const again = await signer.sign({ method: req.method, protocol: 'http:', hostname: '127.0.0.1', path: req.url, query: {}, headers, body },
    { signingDate: when });
  return again.headers.authorization === req.headers.authorization ? '' : 'it differs: ' + again.headers.authorization;
}

function serve(file) {
  const log = fs.createWriteStream(file + '.log'), count = {}, ports = [];
  const db = require('dynalite')({ createTableMs: 0 });
  const error = (res, status, type, message, member) => {
    const b = JSON.stringify({ __type: 'com.amazonaws.dynamodb.v20120810#' + type, [member || 'message']: message });
    res.writeHead(status, { 'Content-Type': 'application/x-amz-json-1.0', 'Content-Length': Buffer.byteLength(b) }).end(b);
  };
  function answer(mode, n, req, body, res, forward) {
    const op = req.headers['x-amz-target'].split('.')[1], id = /Credential=([^/]+)/.exec(req.headers.authorization)[1];
    if (mode === 'throttle' && n <= 3)
      return error(res, 400, ['ProvisionedThroughputExceededException', 'ThrottlingException', 'RequestLimitExceeded'][n - 1], 'slow down');
    if (mode === 'err500' && n === 1) return res.writeHead(500, { 'Content-Type': 'text/html' }).end('<html>oops</html>');
    if (mode === 'err500' && n === 2) return error(res, 503, 'ServiceUnavailable', 'later');
    if (mode === 'always500') return error(res, 500, 'InternalServerError', 'broken');
    if (mode === 'drop' && n === 1) return req.socket.destroy();
    if (mode === 'drop' && n === 2) return req.socket.end('HTTP/1.1 200 OK\r\nContent-Le');
    if (mode === 'hang' && n === 1) return undefined;
    if (mode === 'hangremove' && body.includes('REMOVE')) return undefined;
    if (mode === 'lostdelete' && op === 'DeleteItem' && !count.lost) { count.lost = 1; return error(res, 400, 'ThrottlingException', 'slow down'); }
    if (mode === 'denied') return error(res, 400, 'AccessDeniedException', 'User: \u001b[31mx is not authorized to perform: dynamodb:UpdateItem', 'Message');
    if (mode === 'badsig') return error(res, 400, 'InvalidSignatureException', 'The request signature we calculated does not match');
    if (mode === 'html403') return res.writeHead(403, { 'Content-Type': 'text/html' }).end('<html>no</html>');
    if (mode === 'redirect') return res.writeHead(302, { Location: 'http://127.0.0.1:1/' }).end();
    if (mode === 'expired' && id === 'OLD') return error(res, 400, 'ExpiredTokenException', 'The security token included in the request is expired');
    return forward((status, text) => {
      const raw = (head, b) => { res.socket.write(`HTTP/1.1 ${status} X\r\nContent-Type: application/x-amz-json-1.0\r\n${head}\r\n${b}`); res.socket.end(); };
      const chunks = () => text.match(/[\s\S]{1,7}/g).map((c) => c.length.toString(16).toUpperCase() + ';x=y\r\n' + c + '\r\n').join('');
      if (mode === 'chunked') return raw('Transfer-Encoding: chunked\r\n', chunks() + '0\r\nX-Trailer: 1\r\n\r\n');
      if (mode === 'badchunk' && n === 1) return raw('Transfer-Encoding: chunked\r\n', chunks());
      if (mode === 'nolen') return raw('', text);
      if (mode === 'cutanswer' && n === 1) return raw(`Content-Length: ${text.length}\r\n`, text.slice(0, -1));
      if (mode === 'pieces') {
        const all = `HTTP/1.1 ${status} X\r\nContent-Length: ${text.length}\r\n\r\n${text}`;
        let i = 0;
        const timer = setInterval(() => { if (i < all.length) res.socket.write(all[i++]); else { clearInterval(timer); res.socket.end(); } }, 1);
        return timer;
      }
      if (mode === 'extra') {
        const o = { ConsumedCapacity: { x: [1, -2.5e3, true, null, { Attributes: { N_0: { S: 'no' } } }] }, ...JSON.parse(text || '{}') };
        const b = JSON.stringify(o, null, 1).replace(/"(?:[^"\\]|\\.)*"/g, (s) => '"' + [...JSON.parse(s)].map((c) => '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0')).join('') + '"');
        return raw(`Content-Length: ${b.length}\r\n`, b);
      }
      return raw(`Content-Length: ${Buffer.byteLength(text)}\r\n`, text);
    });
  }
  db.listen(0, '127.0.0.1', async () => {
    const real = db.address().port;
    await client(real).send(new sdk.CreateTableCommand({ TableName: 'rdv', BillingMode: 'PAY_PER_REQUEST',
      KeySchema: [{ AttributeName: 'key', KeyType: 'HASH' }], AttributeDefinitions: [{ AttributeName: 'key', AttributeType: 'S' }] }));
    ports.push('dynalite ' + real);
    for (const mode of MODES) {
      const proxy = http.createServer((req, res) => {
        const parts = [];
        req.on('data', (p) => parts.push(p)).on('end', async () => {
          const body = Buffer.concat(parts).toString(), n = count[mode] = (count[mode] || 0) + 1;
          const op = (req.headers['x-amz-target'] || '?').split('.')[1], wrong = await signedAgain(req, body);
          log.write(`${mode} ${Date.now()} ${op} ${wrong || 'signed'} ${body}\n`);
          if (wrong) return error(res, 400, 'InvalidSignatureException', wrong);
          return answer(mode, n, req, body, res, (then) => {
            const f = http.request({ port: real, host: '127.0.0.1', method: 'POST', path: req.url, headers: { ...req.headers, host: '127.0.0.1:' + real } }, (r) => {
              const got = [];
              r.on('data', (p) => got.push(p)).on('end', () => then(r.statusCode, Buffer.concat(got).toString()));
            });
            f.end(body);
          });
        });
      });
      proxy.on('clientError', (e, socket) => socket.destroy());
      await new Promise((done) => proxy.listen(0, '127.0.0.1', done));
      ports.push(mode + ' ' + proxy.address().port);
    }
    fs.writeFileSync(file + '.new', ports.join('\n') + '\n');
    fs.renameSync(file + '.new', file);
  });
  setTimeout(() => process.exit(0), 300000);
}

async function words(port, [what, key, attribute, text]) {
  const c = client(port), Key = { key: { S: key } };
  if (what === 'scan') return (await c.send(new sdk.ScanCommand({ TableName: 'rdv', ConsistentRead: true }))).Items;
  if (what === 'get') return (await c.send(new sdk.GetItemCommand({ TableName: 'rdv', Key, ConsistentRead: true }))).Item;
  return c.send(new sdk.UpdateItemCommand({ TableName: 'rdv', Key, UpdateExpression: 'SET #n = :v',
    ExpressionAttributeNames: { '#n': what === 'fill' ? 'other' : attribute },
    ExpressionAttributeValues: { ':v': { S: what === 'fill' ? 'x'.repeat(+attribute) : text } } })).then(() => 'done');
}

if (process.argv[2] === 'serve') serve(process.argv[3]);
else words(process.argv[3], process.argv.slice(4)).then((r) => console.log(JSON.stringify(r)));
