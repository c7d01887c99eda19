// A member of the mesh in js-libp2p, written from the wire descriptions alone (the docstrings of
// capamesh.protocol.mesh.handshake, capamesh.protocol.mesh.gossip and capamesh.protocol.adverts.envelope).
//
// Reads one line of JSON: { key, chain, ca, network, target, topic, awaits, bootNs, body }, binary values in hex.
// Proves membership, publishes `body` as an envelope of its own, waits for one envelope of the kind `awaits`, checks it (an advert field by
// field, by the docstring of capamesh.protocol.adverts.body), and writes what it found as lines of JSON; integers of 64
// bits, which msgpack gives as BigInt and JSON does not know, as text.
import { createHash, createPublicKey, randomBytes, X509Certificate } from 'node:crypto'
import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { tcp } from '@libp2p/tcp'
import { decode, encode } from '@msgpack/msgpack'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const MEMBER = '/capamesh/member/1'
const ZERO = Buffer.from([0])
const bytes = (text) => Buffer.from(text, 'utf8')
const plain = (_, value) => typeof value === 'bigint' ? String(value) : value
const tell = (value) => process.stdout.write(JSON.stringify(value, plain) + '\n')
const insist = (holds, what) => { if (!holds) throw new Error(what) }

// The 32 bytes of an Ed25519 key at the end of its SubjectPublicKeyInfo (RFC 8410).
const rawKey = (certificate) => certificate.publicKey.export({ type: 'spki', format: 'der' }).subarray(-32)

const settings = JSON.parse((await createInterface({ input: process.stdin })[Symbol.asyncIterator]().next()).value)
const chain = settings.chain.map((one) => Buffer.from(one, 'hex'))
const authority = new X509Certificate(Buffer.from(settings.ca, 'hex'))
const privateKey = await generateKeyPairFromSeed('Ed25519', Buffer.from(settings.key, 'hex'))

function checkChain ([leafDer, inviteDer], remote) {
  const [leaf, invite] = [leafDer, inviteDer].map((der) => new X509Certificate(der))
  const owner = createHash('sha256').update(rawKey(authority)).digest('hex').slice(0, 32)
  insist(settings.network === 'cm-' + owner, 'the network id is not the authority\'s')
  insist(invite.verify(authority.publicKey), 'the authority did not sign the invite')
  insist(leaf.verify(invite.publicKey), 'the invite did not sign the leaf')
  insist(Buffer.from(remote.publicKey.raw).equals(rawKey(leaf)), 'the leaf is not the peer\'s')
  insist(leaf.subjectAltName.includes(`capamesh://${settings.network}/${remote}`), 'the leaf names another member')
  const now = Date.now()
  for (const one of [leaf, invite]) {
    insist(Date.parse(one.validFrom) - 600_000 < now && now < Date.parse(one.validTo), 'a certificate is not valid now')
  }
}

// Messages of a 4-byte little-endian length and msgpack, over a libp2p stream.
function framed (stream) {
  let buffer = Buffer.alloc(0)
  const chunks = stream[Symbol.asyncIterator]()
  return {
    send: (message) => {
      const body = Buffer.from(encode(message))
      const length = Buffer.alloc(4)
      length.writeUInt32LE(body.length)
      stream.send(Buffer.concat([length, body]))
    },
    receive: async () => {
      while (buffer.length < 4 || buffer.length < 4 + buffer.readUInt32LE()) {
        const { value, done } = await chunks.next()
        insist(!done, 'the membership stream ended')
        buffer = Buffer.concat([buffer, value.subarray()])
      }
      const end = 4 + buffer.readUInt32LE()
      const message = decode(buffer.subarray(4, end))
      buffer = buffer.subarray(end)
      insist(message.ok !== false, `refused: ${message.why}`)
      return message
    }
  }
}

async function prove (connection) {
  const stream = await connection.newStream(MEMBER)
  const { send, receive } = framed(stream)
  const nonce = randomBytes(32)
  send({ type: 'hello', v: 1, net: settings.network, chain, nonce, revoked: 0 })
  const hello = await receive()
  insist(hello.type === 'hello' && hello.v === 1 && hello.net === settings.network, 'not a hello of this network')
  checkChain(hello.chain, connection.remotePeer)
  const signed = (side) => Buffer.concat([
    bytes('capamesh-member-1'), ZERO, bytes(side), bytes(settings.network), ZERO,
    bytes(node.peerId.toString()), ZERO, bytes(connection.remotePeer.toString()), ZERO, nonce, hello.nonce
  ])
  send({ type: 'proof', sig: await privateKey.sign(signed('O')), list: new Uint8Array() })
  const proof = await receive()
  insist(proof.type === 'proof', `${proof.type} instead of a proof`)
  insist(await connection.remotePeer.publicKey.verify(signed('A'), proof.sig), 'the proof is not the peer\'s')
  send({ type: 'verdict', ok: true, why: '' })
  const verdict = await receive()
  insist(verdict.type === 'verdict' && verdict.ok, 'no verdict')
  await stream.close()
}

async function seal (kind, body) {
  const payload = Buffer.from(encode({
    v: 1, kind, net: settings.network, seq: [BigInt(settings.bootNs), 1], at: BigInt(Date.now()), chain, body
  }, { useBigInt64: true }))
  const signature = await privateKey.sign(Buffer.concat([bytes('capamesh-envelope-1'), ZERO, payload]))
  return Buffer.concat([bytes('E'), encode([payload, signature])])
}

const isText = (most, least = 0) => (value) => typeof value === 'string' && [...value].length >= least &&
  [...value].length <= most && !/[\u0000-\u001f\u007f-\u009f]/.test(value)
const isInteger = (least, most) => (value) => (typeof value === 'bigint' || Number.isSafeInteger(value)) &&
  BigInt(value) >= least && BigInt(value) <= most
const isCount = isInteger(0n, 2n ** 63n - 1n)
const isArrayOf = (most, check) => (value) => Array.isArray(value) && value.length <= most && value.every(check)
const isAddress = (value) => /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*):[1-9][0-9]{0,4}$/.test(value)
const isMemberName = (value) => /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(value)
const isDigest = (value) => /^sha256-chunks:[0-9a-f]{64}$/.test(value)

// Checks a map against its fields: a name that ends in "?" may be left out, and unknown fields are skipped.
const isMapOf = (what, fields) => (value) => {
  insist(value !== null && typeof value === 'object' && !Array.isArray(value), `a ${what} is no map`)
  for (const [named, check] of Object.entries(fields)) {
    const name = named.replace('?', '')
    if (!(name in value)) insist(named.endsWith('?'), `a ${what} without ${name}`)
    else insist(check(value[name]), `${name} of a ${what} is ${JSON.stringify(value[name], plain)}`)
  }
  return true
}
const isTensor = isMapOf('tensor', {
  name: isText(256), datatype: isText(32, 1), shape: isArrayOf(32, isInteger(-1n, 2n ** 53n - 1n))
})
const checkAdvert = isMapOf('advert', {
  devices: isArrayOf(64, isMapOf('device', {
    index: isInteger(0n, 65_535n), kind: isText(32, 1), name: isText(256), provider: isText(64, 1),
    memory_total: isCount, memory_free: isCount, addresses: isArrayOf(16, isAddress),
    'runtime?': isText(64), 'driver?': isText(64)
  })),
  models: isArrayOf(1024, isMapOf('model', {
    name: isText(256, 1), version: (value) => /^[0-9]{1,18}$/.test(value),
    digest: (value) => value === '' || isDigest(value), state: isText(32, 1), reason: isText(512),
    inputs: isArrayOf(1024, isTensor), outputs: isArrayOf(1024, isTensor),
    'provider?': isText(64), 'precision?': isText(32),
    'best_rows?': isCount, 'row_us?': isCount, 'max_rows?': isCount, 'memory?': isCount
  })),
  region: isText(64), price_per_million: (value) => Number.isFinite(value) && value >= 0 && value <= 1e12,
  agent_version: isText(64), draining: (value) => typeof value === 'boolean', 'interval_s?': isInteger(1n, 600n),
  'name?': isMemberName
})

async function open ({ from, data }) {
  insist(data[0] === 'E'.charCodeAt(0), 'not an envelope')
  const [payload, signature] = decode(data.subarray(1))
  const signed = Buffer.concat([bytes('capamesh-envelope-1'), ZERO, payload])
  insist(await from.publicKey.verify(signed, signature), 'the sender did not sign the envelope')
  const envelope = decode(payload, { useBigInt64: true })
  insist(envelope.v === 1n || envelope.v === 1, 'another wire version')
  insist(envelope.net === settings.network, 'another network')
  checkChain(envelope.chain, from)
  if (envelope.kind === 'advert') checkAdvert(envelope.body)
  return { sender: from.toString(), kind: envelope.kind, seq: envelope.seq.map(String), body: envelope.body }
}

const node = await createLibp2p({
  privateKey,
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), gossip: gossipsub({ globalSignaturePolicy: 'StrictSign' }) }
})
const { gossip } = node.services
const heard = new Promise((resolve, reject) => gossip.addEventListener('message', ({ detail }) => {
  if (detail.topic !== settings.topic) return
  open(detail).then((opened) => { if (opened.kind === settings.awaits) resolve(opened) }, reject)
}))
gossip.subscribe(settings.topic)
const heartbeat = () => new Promise((resolve) => {
  gossip.addEventListener('gossipsub:heartbeat', resolve, { once: true })
})

try {
  const connection = await node.dial(multiaddr(settings.target))
  await prove(connection)
  tell({ proved: connection.remotePeer.toString(), muxer: connection.multiplexer, security: connection.encryption })
  // A peer whose subscription was heard may have no stream yet, and gossipsub then sends it nothing; a peer that does not
  // forward to us yet may leave out what is said now. A peer of our mesh has the stream, and was told of it before.
  while (gossip.getMeshPeers(settings.topic).length === 0) await heartbeat()
  const { recipients } = await gossip.publish(settings.topic, await seal('test', settings.body))
  tell({ published: recipients.length })
  tell({ heard: await heard })
} catch (error) {
  tell({ failed: error.message })
}
process.exit(0)
