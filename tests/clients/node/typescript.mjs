// One scenario on the official TypeScript SDK, of the generation and in the mode that the environment names.
// Prints one report as JSON; the bearer comes by the environment, and never in an argument.

const { MCP_URL, MCP_TOKEN, MCP_GENERATION, MCP_MODE, MCP_KEY } = process.env;
const identity = { name: 'scenario', version: '1.0.0' };
const capabilities = { elicitation: {} };
const sent = MCP_TOKEN ? { requestInit: { headers: { Authorization: `Bearer ${MCP_TOKEN}` } } } : {};
const asked = [];

function answer({ params }) {
    asked.push(params.message);
    return { action: 'accept', content: { colour: 'green' } };
}

// Each generation: a connected client, how it calls a tool, and the protocol's version that it speaks.
const generations = {
    async v1() {
        const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
        const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
        const { ElicitRequestSchema } = await import('@modelcontextprotocol/sdk/types.js');
        const client = new Client(identity, { capabilities });
        client.setRequestHandler(ElicitRequestSchema, answer);
        const transport = new StreamableHTTPClientTransport(new URL(MCP_URL), sent);
        await client.connect(transport);
        const call = (params, options) => client.callTool(params, undefined, options);
        return { client, transport, call, version: transport.protocolVersion };
    },
    async v2() {
        const { Client, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client');
        const mode = MCP_MODE === 'modern' ? { pin: '2026-07-28' } : MCP_MODE;
        const client = new Client(identity, { capabilities, versionNegotiation: { mode } });
        client.setRequestHandler('elicitation/create', answer);
        const transport = new StreamableHTTPClientTransport(new URL(MCP_URL), sent);
        await client.connect(transport);
        const call = (params, options) => client.callTool(params, options);
        return { client, transport, call, version: client.getNegotiatedProtocolVersion() };
    },
};

const { client, transport, call, version } = await generations[MCP_GENERATION]();
const names = (entries) => entries.map(({ name }) => name);
const report = { version };

report.tools = names((await client.listTools()).tools);
report.resources = names((await client.listResources()).resources);
report.templates = names((await client.listResourceTemplates()).resourceTemplates);
report.prompts = names((await client.listPrompts()).prompts);

report.sum = (await call({ name: 'add', arguments: { a: 2, b: 40 } })).structuredContent.result;
report.failure = (await call({ name: 'fail', arguments: { text: 'on purpose' } })).isError;

report.read = (await client.readResource({ uri: 'note://today' })).contents[0].text;
report.templated = (await client.readResource({ uri: 'note://by-name/ann' })).contents[0].text;
report.prompt = (await client.getPrompt({ name: 'greet', arguments: { name: 'Ann' } })).messages[0].content.text;

report.steps = [];
const onprogress = ({ progress, total, message }) => report.steps.push([progress, total, message]);
report.counted = (await call({ name: 'count', arguments: { steps: 3 } }, { onprogress })).content[0].text;

report.colour = (await call({ name: 'ask_colour', arguments: {} })).content[0].text;
report.asked = asked;

// The tool never returns: its step of progress is what tells when to give up.
const enough = new AbortController();
const arguments_ = { key: MCP_KEY };
const options = { signal: enough.signal, onprogress: () => enough.abort('enough') };
const error = await call({ name: 'wait_forever', arguments: arguments_ }, options).then(() => null, (reason) => reason);
report.gave_up = error !== null && enough.signal.aborted;
report.cancelled = (await call({ name: 'was_cancelled', arguments: arguments_ })).structuredContent.result;

if (transport.sessionId) await transport.terminateSession();
await client.close();
console.log(JSON.stringify(report));
