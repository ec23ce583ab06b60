// One Node client of the matrix: clients.cjs CLIENT PLAN. What it prints is read by clients_test.go.
const { createRequire } = require('node:module')
const modules = createRequire(process.env.OO_NODE_MODULES + '/')
const [client, plan] = [process.argv[2], JSON.parse(process.argv[3])]

const tell = (route, step, what) => console.log(JSON.stringify({ route, step, ...what }))
const headers = { 'Content-Type': 'application/json' }

// Each client gives open(url, body) → {status, header(name), body: async iterable of bytes}.
function byFetch(fetch) {
  return async (url, body) => {
    const r = await fetch(url, { method: 'POST', body, headers })
    return { status: r.status, header: (name) => r.headers.get(name), body: r.body }
  }
}

const clients = {
  fetch: () => byFetch(globalThis.fetch),
  'undici-fetch': () => {
    const { EnvHttpProxyAgent, setGlobalDispatcher } = modules('undici')
    setGlobalDispatcher(new EnvHttpProxyAgent()) // also the dispatcher of Node's own fetch
    return byFetch(globalThis.fetch)
  },
  undici: () => {
    const { EnvHttpProxyAgent, request } = modules('undici')
    const dispatcher = new EnvHttpProxyAgent()
    return async (url, body) => {
      const r = await request(url, { method: 'POST', body, headers: { ...headers }, dispatcher }) // undici writes Host into the object
      return { status: r.statusCode, header: (name) => r.headers[name.toLowerCase()], body: r.body }
    }
  },
  axios: () => {
    const axios = modules('axios')
    return async (url, body) => {
      const r = await axios.post(url, body, { headers, responseType: 'stream', validateStatus: () => true })
      return { status: r.status, header: (name) => r.headers[name.toLowerCase()], body: r.data }
    }
  },
}

async function whole(r) {
  const pieces = []
  for await (const piece of r.body) pieces.push(Buffer.from(piece))
  return Buffer.concat(pieces).toString()
}

async function through(open, route, base) {
  const body = JSON.stringify({ client: plan.label, route })
  for (let i = 0; i < 2; i++) {
    const r = await open(base + '/charge', body)
    tell(route, 'call', { status: r.status, replayed: r.header('Idempotent-Replayed') === 'true', text: await whole(r) })
  }
  const refused = await open(base + '/blocked', body)
  tell(route, 'refusal', { status: refused.status, text: await whole(refused) })
  let text = ''
  for await (const piece of (await open(base + '/stream', body)).body) {
    if (!text) tell(route, 'piece', { text: Buffer.from(piece).toString() })
    text += Buffer.from(piece).toString()
  }
  tell(route, 'streamed', { text })
}

async function main() {
  const open = clients[client]()
  for (const [route, base] of Object.entries(plan.routes)) {
    try {
      await through(open, route, base)
    } catch (e) {
      tell(route, 'error', { text: String(e.cause || e).slice(0, 300) })
    }
  }
}
main()
