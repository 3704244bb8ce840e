// The AWS SDK, as another program that uses the table rdv beside pashlib.
//
// usage: node aws.js PORT COMMAND, for the server at 127.0.0.1:PORT. COMMAND is one of:
//
// keys PREFIX             prints the keys of all items that begin with PREFIX, as JSON
// names KEY               prints the sorted names of the attributes of an item, as JSON, or "no item"
// text KEY ATTRIBUTE      prints the text of an attribute
// put KEY ATTRIBUTE TEXT  sets an attribute to TEXT
// fill KEY BYTES          sets the attribute "other" to that many bytes
//
// NODE_PATH must lead to @aws-sdk/client-dynamodb.
'use strict';

const { DynamoDBClient, GetItemCommand, ScanCommand, UpdateItemCommand } = require('@aws-sdk/client-dynamodb');

const [port, command, ...words] = process.argv.slice(2);
const client = new DynamoDBClient({
  endpoint: `http://127.0.0.1:${port}`,
  region: 'us-east-1',
  credentials: { accessKeyId: 'AKID', secretAccessKey: 'secret/+=' },
});
const TableName = 'rdv';

async function getItem(key) {
  const answer = await client.send(new GetItemCommand({ TableName, Key: { key: { S: key } }, ConsistentRead: true }));
  return answer.Item;
}

async function setAttribute(key, name, text) {
  await client.send(new UpdateItemCommand({
    TableName,
    Key: { key: { S: key } },
    UpdateExpression: 'SET #n = :v',
    ExpressionAttributeNames: { '#n': name },
    ExpressionAttributeValues: { ':v': { S: text } },
  }));
  return 'done';
}

const COMMANDS = {
  async keys(prefix) {
    const answer = await client.send(new ScanCommand({ TableName, ConsistentRead: true }));
    const keys = answer.Items.map((item) => item.key.S);
    return JSON.stringify(keys.filter((key) => key.startsWith(prefix)));
  },

  async names(key) {
    const item = await getItem(key);
    return item ? JSON.stringify(Object.keys(item).sort()) : 'no item';
  },

  async text(key, name) {
    const item = await getItem(key);
    return item[name].S;
  },

  put: setAttribute,
  fill: (key, bytes) => setAttribute(key, 'other', 'x'.repeat(Number(bytes))),
};

COMMANDS[command](...words).then(console.log, (e) => {
  console.error(e);
  process.exit(1);
});
