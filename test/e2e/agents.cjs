// An agent with a scripted model: agents.cjs FRAMEWORK. The model asks for a payment and for a mail, each twice, as one
// does that did not see its first answer. Nothing here knows of a proxy.
const { createRequire } = require('node:module')
const { pathToFileURL } = require('node:url')
const modules = createRequire(process.env.OO_NODE_MODULES + '/')
const load = (name) => import(pathToFileURL(modules.resolve(name)))
const framework = process.argv[2]

const script = [
  ['pay', { amount: 4200 }],
  ['pay', { amount: 4200 }],
  ['send_mail', { to: 'customer@example.test' }],
  ['send_mail', { to: 'customer@example.test' }],
]

async function post(url, headers, body) {
  const r = await fetch(url, { method: 'POST', headers, body })
  if (!r.ok) throw new Error(`${r.status} ${await r.text()}`)
  return r.json()
}

async function pay({ amount }) {
  const body = new URLSearchParams({ amount, currency: 'usd', source: 'tok_visa', description: framework })
  return (await post(process.env.STRIPE_URL, { Authorization: 'Bearer sk_test_123' }, body)).id
}

async function sendMail({ to }) {
  const mail = { From: { Email: 'agent@example.test' }, To: [{ Email: to }], Subject: 'Receipt from ' + framework, Text: 'Thank you.' }
  return (await post(process.env.MAIL_URL, { 'Content-Type': 'application/json' }, JSON.stringify(mail))).ID
}

async function langchain() {
  const { tool } = await load('@langchain/core/tools')
  const { AIMessage, HumanMessage, ToolMessage } = await load('@langchain/core/messages')
  const { BaseChatModel } = await load('@langchain/core/language_models/chat_models')
  const { z } = await load('zod')
  class Scripted extends BaseChatModel {
    _llmType() {
      return 'scripted'
    }
    async _generate(messages) {
      const step = messages.filter((m) => ToolMessage.isInstance(m)).length
      const message = step < script.length ? new AIMessage({ content: '', tool_calls: [{ name: script[step][0], args: script[step][1], id: 'call-' + step }] }) : new AIMessage('paid and told')
      return { generations: [{ message, text: '' }] }
    }
  }
  const tools = {
    pay: tool(pay, { name: 'pay', description: 'Charge the customer.', schema: z.object({ amount: z.number() }) }),
    send_mail: tool(sendMail, { name: 'send_mail', description: 'Send the receipt.', schema: z.object({ to: z.string() }) }),
  }
  const model = new Scripted({})
  const messages = [new HumanMessage('go')]
  for (;;) {
    const said = await model.invoke(messages)
    messages.push(said)
    if (!said.tool_calls?.length) break
    for (const call of said.tool_calls) messages.push(await tools[call.name].invoke({ ...call, type: 'tool_call' }))
  }
  return { final: messages.at(-1).content, outputs: messages.filter((m) => ToolMessage.isInstance(m)).map((m) => m.content) }
}

async function vercel() {
  const { generateText, stepCountIs, tool } = await load('ai')
  const mocks = await load('ai/test')
  const { z } = await load('zod')
  const Mock = mocks.MockLanguageModelV4 ?? mocks.MockLanguageModelV3
  const usage = { inputTokens: { total: 1 }, outputTokens: { total: 1 } }
  let step = 0
  const model = new Mock({
    doGenerate: async () => {
      const call = script[step++]
      return call
        ? { content: [{ type: 'tool-call', toolCallId: 'call-' + step, toolName: call[0], input: JSON.stringify(call[1]) }], finishReason: { unified: 'tool-calls' }, usage, warnings: [] }
        : { content: [{ type: 'text', text: 'paid and told' }], finishReason: { unified: 'stop' }, usage, warnings: [] }
    },
  })
  const result = await generateText({
    model,
    prompt: 'go',
    stopWhen: stepCountIs(10),
    tools: {
      pay: tool({ description: 'Charge the customer.', inputSchema: z.object({ amount: z.number() }), execute: pay }),
      send_mail: tool({ description: 'Send the receipt.', inputSchema: z.object({ to: z.string() }), execute: sendMail }),
    },
  })
  const outputs = result.steps.flatMap((s) => s.toolResults.map((r) => r.output))
  return { final: result.text, outputs }
}

async function main() {
  console.log(JSON.stringify(await { '@langchain/core': langchain, ai: vercel }[framework]()))
}
main()
