// A peer of js-libp2p for Peili's tests: an independent implementation of the same wire.
//
// Usage: node peer.mjs [KAD_PREFIX]. It prints one JSON object a line: first its peer id and addresses, then the
// answer to each command that it reads from stdin, one JSON object a line as well. It ends with its stdin.
Promise.withResolvers ??= function () { // Node 20 has none yet
  let resolve, reject
  const promise = new Promise((yes, no) => { resolve = yes; reject = no })
  return { promise, resolve, reject }
}
const { createInterface } = await import('node:readline')
const { createLibp2p } = await import('libp2p')
const { tcp } = await import('@libp2p/tcp')
const { tls } = await import('@libp2p/tls')
const { yamux } = await import('@libp2p/yamux')
const { identify, identifyPush } = await import('@libp2p/identify')
const { ping } = await import('@libp2p/ping')
const { kadDHT } = await import('@libp2p/kad-dht')
const { multiaddr } = await import('@multiformats/multiaddr')
const { CID } = await import('multiformats/cid')
const Digest = await import('multiformats/hashes/digest')

const ECHO = '/test/echo/1.0.0'
const prefix = process.argv[2]
// One stream of its own for each connection, which may still be open when a test asks as well.
const services = { identify: identify({ maxOutboundStreams: 4 }), identifyPush: identifyPush(), ping: ping() }
if (prefix) {
  services.dht = kadDHT({ protocol: `${prefix}/kad/1.0.0`, clientMode: false, peerInfoMapper: peer => peer })
}
const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [tls()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false }, // private addresses are all that a test has
  services
})
await node.handle(ECHO, async stream => {
  for await (const chunk of stream) {
    stream.send(chunk)
  }
  await stream.close()
})

const rawContent = key => CID.createV1(0x55, Digest.decode(Buffer.from(key, 'hex')))
const until = timeout => ({ signal: AbortSignal.timeout(timeout ?? 10_000) })

// Several bytes a chunk, several chunks in flight, so that flow control has something to do.
async function echo (address, size) {
  const stream = await node.dialProtocol(multiaddr(address), ECHO, until())
  let received = 0
  const reading = (async () => {
    for await (const chunk of stream) {
      received += chunk.byteLength
    }
  })()
  for (let sent = 0; sent < size; sent += 16_384) {
    if (!stream.send(new Uint8Array(Math.min(16_384, size - sent)))) {
      await stream.onDrain(until())
    }
  }
  await stream.close(until())
  await reading
  return { received }
}

const commands = {
  dial: async ({ address }) => ({ peer: (await node.dial(multiaddr(address), until())).remotePeer.toString() }),
  ping: async ({ address }) => ({ milliseconds: await node.services.ping.ping(multiaddr(address), until()) }),
  echo: async ({ address, size }) => echo(address, size),
  identify: async ({ peer }) => {
    const connection = node.getConnections().find(one => one.remotePeer.toString() === peer)
    const about = await node.services.identify.identify(connection, until())
    return {
      peer: about.peerId.toString(),
      agent: about.agentVersion,
      protocolVersion: about.protocolVersion,
      protocols: about.protocols,
      addresses: about.listenAddrs.map(String),
      observed: String(about.observedAddr)
    }
  },
  peers: async () => ({ peers: node.getPeers().map(String) }),
  provide: async ({ key }) => {
    for await (const _ of node.services.dht.provide(rawContent(key), until())) { /* the steps of the query */ }
    return {}
  },
  find: async ({ key }) => {
    const found = new Set()
    for await (const event of node.services.dht.findProviders(rawContent(key), until())) {
      for (const provider of event.providers ?? []) {
        found.add(provider.id.toString())
      }
    }
    return { providers: [...found] }
  }
}

const say = message => process.stdout.write(JSON.stringify(message) + '\n')
say({ peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) })
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  try {
    say(await commands[command.command](command))
  } catch (error) {
    say({ error: `${error.name}: ${error.message}` })
  }
}
await node.stop()
process.exit(0)
