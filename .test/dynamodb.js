// A fake DynamoDB for the tests: dynalite, with proxies before it, most of which misbehave.
//
// usage: node dynamodb.js LIST
//
// LIST  the file that names the servers, one a line: MODE PORT for each mode of the table MODES, and "dynalite PORT".
//       It is there once all of them listen, each on a port of its own at 127.0.0.1. The table is called rdv.
//       LIST.log gets a line for each request to a proxy: MODE KEY TIME OPERATION signed BODY, or, instead of
//       "signed", what is wrong with the signature. KEY is percent-encoded, TIME is in milliseconds.
//
// A proxy signs each request again with the AWS SDK's own signer. A request whose signature differs gets an error, and
// so does one that is stale or does not sign what it should. A proxy counts the requests for each key of the table,
// so that tests that use different keys do not disturb each other.
//
// NODE_PATH must lead to dynalite, @aws-sdk/client-dynamodb, @smithy/signature-v4 and @aws-crypto/sha256-js.
'use strict';

const fs = require('fs');
const http = require('http');
const dynalite = require('dynalite');
const { CreateTableCommand, DynamoDBClient } = require('@aws-sdk/client-dynamodb');
const { SignatureV4 } = require('@smithy/signature-v4');
const { Sha256 } = require('@aws-crypto/sha256-js');

const HOST = '127.0.0.1';

// Secret keys by key id. Whoever is not AKID has temporary credentials, with this session token.
const SECRETS = { AKID: 'secret/+=', OLD: 'oldsecret', NEW: 'newsecret' };
const SESSION_TOKEN = 'session+token/==';

// ---- the modes ----

// A mode has up to two functions. Without them the proxy is an honest one.
//   refuse(request)              is asked first. If it returns true, it has done all that is to be done.
//   giveBack(response, request)  sends dynalite's response to the client.
// A request has: n, which says that it is the nth one of its key to this mode; deletes, how many of those n are a
// DeleteItem; operation, keyId, body, url, all strings; headers; reply, node's object to answer with; and socket.
// A response has status, a number, and text, the body.
const MODES = {
  pass: {},

  // Answers that are good, in forms that are rare.
  pieces: { giveBack: giveByteByByte },
  extra: { giveBack: giveWithMore },
  chunked: { giveBack: giveChunked },
  nolen: { giveBack: giveWithoutLength },

  // What passes: the first requests for a key fail, the next ones do not.
  throttle: { refuse: throttleThree },
  err500: { refuse: failTwice },
  drop: { refuse: cutTwice },
  hang: { refuse: (request) => request.n === 1 },
  cutanswer: { giveBack: giveCutOnce },
  badchunk: { giveBack: giveCutChunksOnce },
  throttledelete: { refuse: throttleFirstDelete },

  // What does not pass.
  always500: { refuse: (request) => error(request, 500, 'InternalServerError', 'broken') },
  denied: { refuse: deny },
  badsig: {
    refuse: (request) => error(request, 400, 'InvalidSignatureException',
      'The request signature we calculated does not match'),
  },
  expired: { refuse: refuseOldKey },
  html403: { refuse: (request) => answer(request, 403, { 'Content-Type': 'text/html' }, '<html>no</html>') },
  redirect: { refuse: (request) => answer(request, 302, { Location: 'http://127.0.0.1:1/' }, '') },
  hangremove: { refuse: (request) => request.body.includes('REMOVE') },
  hanglook: { refuse: (request) => request.operation === 'GetItem' },
};

// ---- answers of the proxy itself: all of these return true, or false where they let the request pass ----

function answer(request, status, headers, body) {
  request.reply.writeHead(status, headers);
  request.reply.end(body);
  return true;
}

// An error as DynamoDB says it. Services differ in whether the member is called message or Message.
function error(request, status, type, text, member = 'message') {
  const body = JSON.stringify({ __type: 'com.amazonaws.dynamodb.v20120810#' + type, [member]: text });
  const headers = { 'Content-Type': 'application/x-amz-json-1.0', 'Content-Length': Buffer.byteLength(body) };
  return answer(request, status, headers, body);
}

function throttleThree(request) {
  const types = ['ProvisionedThroughputExceededException', 'ThrottlingException', 'RequestLimitExceeded'];
  return request.n <= types.length && error(request, 400, types[request.n - 1], 'slow down');
}

function failTwice(request) {
  if (request.n === 1) {
    return answer(request, 500, { 'Content-Type': 'text/html' }, '<html>oops</html>');
  }
  return request.n === 2 && error(request, 503, 'ServiceUnavailable', 'later');
}

function cutTwice(request) {
  if (request.n === 1) {
    request.socket.destroy();
    return true;
  }
  if (request.n === 2) {
    request.socket.end('HTTP/1.1 200 OK\r\nContent-Le');
    return true;
  }
  return false;
}

function throttleFirstDelete(request) {
  const first = request.operation === 'DeleteItem' && request.deletes === 1;
  return first && error(request, 400, 'ThrottlingException', 'slow down');
}

// The message holds an escape sequence, which must not reach a terminal.
function deny(request) {
  const text = 'User: \u001b[31mx is not authorized to perform: dynamodb:UpdateItem';
  return error(request, 400, 'AccessDeniedException', text, 'Message');
}

function refuseOldKey(request) {
  const text = 'The security token included in the request is expired';
  return request.keyId === 'OLD' && error(request, 400, 'ExpiredTokenException', text);
}

// ---- how dynalite's answer is given ----

function head(response, headers) {
  return `HTTP/1.1 ${response.status} X\r\nContent-Type: application/x-amz-json-1.0\r\n${headers}\r\n`;
}

function send(request, text) {
  request.socket.end(text);
}

function give(response, request) {
  send(request, head(response, `Content-Length: ${Buffer.byteLength(response.text)}\r\n`) + response.text);
}

function giveWithoutLength(response, request) {
  send(request, head(response, '') + response.text);
}

// The first time, the last byte is missing.
function giveCutOnce(response, request) {
  if (request.n > 1) {
    give(response, request);
    return;
  }
  send(request, head(response, `Content-Length: ${response.text.length}\r\n`) + response.text.slice(0, -1));
}

function giveByteByByte(response, request) {
  const socket = request.socket;
  const all = head(response, `Content-Length: ${response.text.length}\r\n`) + response.text;
  let i = 0;
  const timer = setInterval(() => {
    if (i < all.length) {
      socket.write(all[i]);
      i += 1;
    } else {
      clearInterval(timer);
      socket.end();
    }
  }, 1);
}

// The text as chunks of up to 7 bytes, with capitals in the sizes, and extensions; without the last one, of size 0.
function chunks(text) {
  return (text.match(/[\s\S]{1,7}/g) || [])
    .map((chunk) => chunk.length.toString(16).toUpperCase() + ';x=y\r\n' + chunk + '\r\n')
    .join('');
}

function giveChunked(response, request) {
  const headers = 'Transfer-Encoding: chunked\r\n';
  send(request, head(response, headers) + chunks(response.text) + '0\r\nX-Trailer: 1\r\n\r\n');
}

// The first time, the last chunk is missing, which would say that this is all.
function giveCutChunksOnce(response, request) {
  if (request.n > 1) {
    give(response, request);
    return;
  }
  send(request, head(response, 'Transfer-Encoding: chunked\r\n') + chunks(response.text));
}

// The same JSON with a member more, with blanks and line ends, and with each character of its strings as \uXXXX.
function giveWithMore(response, request) {
  const more = { ConsumedCapacity: { x: [1, -2.5e3, true, null, { Attributes: { N_0: { S: 'no' } } }] } };
  const all = JSON.stringify({ ...more, ...JSON.parse(response.text || '{}') }, null, 1);
  const text = all.replace(/"(?:[^"\\]|\\.)*"/g, (string) => '"' + escapeAll(JSON.parse(string)) + '"');
  give({ status: response.status, text }, request);
}

function escapeAll(text) {
  let escaped = '';
  for (let i = 0; i < text.length; i += 1) {
    escaped += '\\u' + text.charCodeAt(i).toString(16).padStart(4, '0');
  }
  return escaped;
}

// ---- signatures ----

const AUTHORIZATION = new RegExp('^AWS4-HMAC-SHA256 Credential=([^/]+)/\\d{8}/([^/]+)/dynamodb/aws4_request, '
  + 'SignedHeaders=([^,]+), Signature=[0-9a-f]{64}$');

// What is wrong with the signature of the request, or '' if nothing is.
async function whatIsWrong(req, body) {
  const parts = AUTHORIZATION.exec(req.headers.authorization || '');
  if (!parts || !SECRETS[parts[1]]) {
    return 'no authorization of ours';
  }
  const [, accessKeyId, region, signedNames] = parts;
  const names = signedNames.split(';');
  const token = req.headers['x-amz-security-token'];
  for (const name of ['content-type', 'host', 'x-amz-date', 'x-amz-target']) {
    if (!names.includes(name)) {
      return name + ' is not signed';
    }
  }
  if (accessKeyId !== 'AKID' && token !== SESSION_TOKEN) {
    return 'the token is missing';
  }
  if (token && !names.includes('x-amz-security-token')) {
    return 'the token is not signed';
  }
  const date = req.headers['x-amz-date'];
  const signingDate = new Date(date.replace(/^(....)(..)(..T..)(..)(..Z)$/, '$1-$2-$3:$4:$5'));
  if (!(Math.abs(signingDate - Date.now()) <= 60000)) {
    return 'the date is off';
  }
  const headers = {};
  for (const name of names) {
    headers[name] = req.headers[name];
  }
  const signer = new SignatureV4({
    service: 'dynamodb',
    region,
    sha256: Sha256,
    applyChecksum: false,
    credentials: { accessKeyId, secretAccessKey: SECRETS[accessKeyId] },
  });
  const request = { method: req.method, protocol: 'http:', hostname: HOST, path: req.url, query: {}, headers, body };
  const again = await signer.sign(request, { signingDate });
  return again.headers.authorization === req.headers.authorization ? '' : 'it differs: ' + again.headers.authorization;
}

// ---- the servers ----

async function readAll(stream) {
  const parts = [];
  for await (const part of stream) {
    parts.push(part);
  }
  return Buffer.concat(parts).toString();
}

// The key of the item that the request is about.
function keyOf(body) {
  try {
    return JSON.parse(body).Key.key.S;
  } catch {
    return '?';
  }
}

// Pass the request on to dynalite, which takes any signature. Its response: status, text.
function ask(port, request) {
  const headers = { ...request.headers, host: `${HOST}:${port}` };
  return new Promise((resolve, reject) => {
    const forwarded = http.request({ host: HOST, port, method: 'POST', path: request.url, headers }, async (res) => {
      resolve({ status: res.statusCode, text: await readAll(res) });
    });
    forwarded.on('error', reject);
    forwarded.end(request.body);
  });
}

// Handle a request to the proxy of a mode; counts are those of that mode by key, log is a descriptor.
async function handle(mode, counts, dynalitePort, log, req, reply) {
  const body = await readAll(req);
  const key = keyOf(body);
  const operation = (req.headers['x-amz-target'] || '?').split('.').pop();
  const count = counts.get(key) || { requests: 0, deletes: 0 };
  counts.set(key, count);
  count.requests += 1;
  if (operation === 'DeleteItem') {
    count.deletes += 1;
  }
  const n = count.requests;
  const deletes = count.deletes;
  const wrong = await whatIsWrong(req, body);
  fs.writeSync(log, `${mode} ${encodeURIComponent(key)} ${Date.now()} ${operation} ${wrong || 'signed'} ${body}\n`);
  const request = { n, deletes, operation, body, url: req.url, headers: req.headers, reply, socket: req.socket };
  if (wrong) {
    error(request, 400, 'InvalidSignatureException', wrong);
    return;
  }
  request.keyId = AUTHORIZATION.exec(req.headers.authorization)[1];
  const { refuse, giveBack = give } = MODES[mode];
  if (refuse && refuse(request)) {
    return;
  }
  giveBack(await ask(dynalitePort, request), request);
}

function startProxy(mode, dynalitePort, log) {
  const counts = new Map();
  const server = http.createServer((req, reply) => {
    handle(mode, counts, dynalitePort, log, req, reply).catch((e) => {
      console.error(`${mode}: ${e}`);   // Most of the time the client has gone away.
      req.socket.destroy();
    });
  });
  server.on('clientError', (e, socket) => socket.destroy());
  return listen(server);
}

function listen(server) {
  return new Promise((resolve) => {
    server.listen(0, HOST, () => resolve(server.address().port));
  });
}

async function createTable(port) {
  const client = new DynamoDBClient({
    endpoint: `http://${HOST}:${port}`,
    region: 'us-east-1',
    credentials: { accessKeyId: 'AKID', secretAccessKey: SECRETS.AKID },
  });
  await client.send(new CreateTableCommand({
    TableName: 'rdv',
    BillingMode: 'PAY_PER_REQUEST',
    KeySchema: [{ AttributeName: 'key', KeyType: 'HASH' }],
    AttributeDefinitions: [{ AttributeName: 'key', AttributeType: 'S' }],
  }));
}

async function serve(list) {
  const log = fs.openSync(list + '.log', 'w');
  const dynalitePort = await listen(dynalite({ createTableMs: 0 }));
  await createTable(dynalitePort);
  let lines = `dynalite ${dynalitePort}\n`;
  for (const mode of Object.keys(MODES)) {
    lines += `${mode} ${await startProxy(mode, dynalitePort, log)}\n`;
  }
  fs.writeFileSync(list + '.new', lines);
  fs.renameSync(list + '.new', list);
  setTimeout(() => process.exit(0), 3600000);   // Whoever started it ends it long before.
}

serve(process.argv[2]).catch((e) => {
  console.error(e);
  process.exit(1);
});
