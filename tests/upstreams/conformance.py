"""The MCP server that the official conformance suite expects: its tools, prompts and resources under its names."""

import asyncio
import base64
import json
from functools import partial
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, RequestStateSecurity
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.shared.exceptions import MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    Completion,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    ListRootsRequest,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import Field
from serving import Sessions, run

WHAT = "A fixture of the conformance suite."
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="
SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def text(words: str) -> TextContent:
    return TextContent(type="text", text=words)


def embedded(uri: str, words: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=words))


def image() -> ImageContent:
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def form(message: str, **properties: dict[str, Any]) -> ElicitRequest:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling(words: str) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=text(words))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=100))


STRING = {"type": "string"}
NAME = form("What is your name?", name=STRING)
CONFIRM = form("Please confirm", ok={"type": "boolean"})


def schema_2020_12() -> str:
    """A tool with JSON Schema 2020-12 features."""
    return "valid"


schema_tool = Tool.from_function(schema_2020_12, name="json_schema_2020_12_tool")
schema_tool.parameters = SCHEMA_2020_12
# The key is fixed as that of several replicas of one server would be.
security = RequestStateSecurity(keys=[b"the conformance fixture's own key"])
server = MCPServer(
    "conformance", version="1.0.0", log_level="ERROR", tools=[schema_tool], request_state_security=security
)
sessions = Sessions(server)
tool = partial(server.tool, description=WHAT)
prompt = partial(server.prompt, description=WHAT)


# --- plain answers ---


@tool()
def test_simple_text() -> str:
    return "This is a simple text response for testing."


@tool()
def test_image_content() -> list[ImageContent]:
    return [image()]


@tool()
def test_audio_content() -> list[AudioContent]:
    return [AudioContent(type="audio", data=WAV, mime_type="audio/wav")]


@tool()
def test_embedded_resource() -> list[EmbeddedResource]:
    return [embedded("test://embedded-resource", "This is an embedded resource content.")]


@tool()
def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    document = embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")
    return [text("Multiple content types test:"), image(), document]


@tool()
def test_error_handling() -> str:
    raise ToolError("This tool intentionally returns an error for testing")


@tool()
def test_x_mcp_header(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "nowhere",  # noqa: PT028 - no test
) -> str:
    return f"region={region}"


@tool()
def test_missing_capability(ctx: Context) -> str:
    """Need the client's sampling."""
    if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
        needs = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "This tool needs sampling", needs)
    return "The client samples."


# --- messages before the result ---


@tool()
async def test_tool_with_logging(ctx: Context) -> str:
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(words)
        await asyncio.sleep(0.05)
    return "logged"


@tool()
async def test_logging_tool(ctx: Context) -> str:
    """Log, but in the new era only to a client that asked for it."""
    await ctx.info("Said on request alone")
    return "logged"


@tool()
async def test_tool_with_progress(ctx: Context) -> str:
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(0.05)
    return "done"


@tool()
async def test_reconnection(ctx: Context) -> str:
    """Close the stream of the call while it runs."""
    await ctx.info("Before the stream is closed")
    await ctx.close_sse_stream()
    await asyncio.sleep(0.2)
    return "Reconnection test completed successfully."


@tool()
async def test_trigger_tool_change(ctx: Context) -> str:
    server.add_tool(schema_2020_12, name="test_passing_tool")
    server.remove_tool("test_passing_tool")
    await ctx.notify_tools_changed()
    await sessions.list_changed("tools")
    return "changed"


@tool()
async def test_trigger_prompt_change(ctx: Context) -> str:
    server.add_prompt(Prompt.from_function(schema_2020_12, name="test_passing_prompt"))
    server.remove_prompt("test_passing_prompt")
    await ctx.notify_prompts_changed()
    await sessions.list_changed("prompts")
    return "changed"


# --- questions of the legacy era: requests on the stream of the call ---


async def elicited(ctx: Context, message: str, properties: dict[str, Any]) -> str:
    schema = {"type": "object", "properties": properties, "required": []}
    answer = await ctx.session.elicit_form(message, schema, related_request_id=ctx.request_id)
    return f"action={answer.action}, content={json.dumps(answer.content or {})}"


@tool()
async def test_sampling(prompt: str, ctx: Context) -> str:
    message = SamplingMessage(role="user", content=text(prompt))
    answer = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
    return f"LLM response: {answer.content.text}"


@tool()
async def test_elicitation(message: str, ctx: Context) -> str:
    return "User response: " + await elicited(ctx, message, {"username": STRING, "email": STRING})


@tool()
async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    properties = {
        "name": STRING | {"default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": STRING | {"enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return "Elicitation completed: " + await elicited(ctx, "Check the defaults", properties)


def titled(**titles: str) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in titles.items()]


@tool()
async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    one, two, three = values = ["option1", "option2", "option3"]
    options = titled(value1="First", value2="Second", value3="Third")
    properties = {
        "untitledSingle": STRING | {"enum": values},
        "titledSingle": STRING | {"oneOf": options},
        "legacyEnum": STRING | {"enum": ["opt1", "opt2", "opt3"], "enumNames": [one, two, three]},
        "untitledMulti": {"type": "array", "items": STRING | {"enum": values}},
        "titledMulti": {"type": "array", "items": {"anyOf": options}},
    }
    return "Elicitation completed: " + await elicited(ctx, "Choose", properties)


# --- questions of the new era: results that ask for more ---


def ask(state: str | None = None, **requests: Any) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


@tool()
async def test_streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
    await ctx.report_progress(1, 2, "asking")
    return "asked" if ctx.input_responses else ask(user_name=NAME)


@tool()
def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    answer = (ctx.input_responses or {}).get("user_name")
    if answer is None:
        return ask(user_name=NAME)
    return f"Hello, {(answer.content or {}).get('name', 'stranger')}!"


@tool()
def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    answer = (ctx.input_responses or {}).get("capital_question")
    if answer is None:
        return ask(capital_question=sampling("What is the capital of France?"))
    return f"The model said: {answer.content.text}"


@tool()
def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    answer = (ctx.input_responses or {}).get("client_roots")
    return ask(client_roots=ListRootsRequest()) if answer is None else f"{len(answer.roots)} roots"


@tool()
def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    if "confirm" in (ctx.input_responses or {}) and ctx.request_state == "asked":
        return "state-ok"
    return ask("asked", confirm=CONFIRM)


@tool()
def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    """The SDK seals the state and refuses one that it did not seal."""
    return ask("sealed", confirm=CONFIRM) if ctx.request_state is None else "state-ok"


@tool()
def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    wanted = {"user_name": NAME, "greeting": sampling("Greet"), "client_roots": ListRootsRequest()}
    if wanted.keys() <= (ctx.input_responses or {}).keys():
        return "All three came."
    return ask("three", **wanted)


@tool()
def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    """Ask for a name, then for a colour; the name is kept in the state."""
    answers = ctx.input_responses or {}
    state = json.loads(ctx.request_state or "{}")
    if "name" in state and "step2" in answers:
        return f"{state['name']} likes {answers['step2'].content['color']}."
    if "asked" in state and "step1" in answers:
        name = answers["step1"].content["name"]
        return ask(json.dumps({"name": name}), step2=form("Your favourite colour?", color=STRING))
    return ask('{"asked": 1}', step1=NAME)


@tool()
def test_input_required_result_capabilities(ctx: Context) -> InputRequiredResult:
    """Ask for nothing that the client cannot do."""
    can = ctx.client_capabilities
    requests: dict[str, Any] = {}
    if can is not None and can.sampling is not None:
        requests["sample"] = sampling("Say hello")
    if can is not None and can.elicitation is not None:
        requests["ask"] = NAME
    return ask("limited", **requests)


@prompt()
def test_input_required_result_prompt(ctx: Context) -> list[UserMessage] | InputRequiredResult:
    answer = (ctx.input_responses or {}).get("user_context")
    if answer is None:
        return ask(user_context=form("Which context?", context=STRING))
    return [UserMessage(text(f"Use this context: {answer.content['context']}"))]


# --- prompts, resources, completion ---


@prompt()
def test_simple_prompt() -> str:
    return "This is a simple prompt for testing."


@prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:  # noqa: N803 - the suite's name
    document = embedded(resourceUri, "Embedded resource content for testing.")
    return [UserMessage(document), UserMessage(text("Please process the embedded resource above."))]


@prompt()
def test_prompt_with_image() -> list[UserMessage]:
    return [UserMessage(image()), UserMessage(text("Please analyze the image above."))]


@server.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    return base64.b64decode(PNG)


@server.resource("test://watched-resource")
def watched() -> str:
    return "Watched."


@server.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> str:  # noqa: A002 - the suite's name
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


@server.completion()
async def complete(ref, argument, context) -> Completion:
    return Completion(values=[argument.value + "is", argument.value + "rtholomew"], total=2, has_more=False)


if __name__ == "__main__":
    run(server)
