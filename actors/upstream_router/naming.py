"""Names in a project with `naming: prefix`: `<slug>__<tool>`, `<slug>+<uri>`, and the way back.

A project with `naming: plain`, and the endpoint of a single server, pass names through untouched.
"""

import hashlib
from dataclasses import dataclass

import msgspec

from mcpctl.bus.contracts.catalog import UpstreamServer
from mcpctl.bus.mcp_messages import Fields, decode_fields, decode_items, decode_value, encode, raw

SEPARATOR = "__"
LONGEST = 64
"""Characters that the APIs of language models take in a tool's name."""

UI = "ui://"


@dataclass(frozen=True)
class Naming:
    """How the names of one server appear in a project."""

    server: UpstreamServer
    prefixed: bool

    def name(self, name: str) -> str:
        """Return the name that the client sees."""
        return f"{self.server.slug}{SEPARATOR}{name}" if self.prefixed else name

    def tool_name(self, name: str) -> str:
        """Return the name of a tool that the client sees; a long one is cut and made unique by a digest."""
        full = self.name(name)
        if not self.prefixed or len(full) <= LONGEST:
            return full
        return f"{full[: LONGEST - 9]}_{hashlib.sha256(full.encode()).hexdigest()[:8]}"

    def uri(self, uri: str) -> str:
        """Return the URI that the client sees."""
        if not self.prefixed:
            return uri
        if uri.startswith(UI):
            return f"{UI}{self.server.slug}/{uri.removeprefix(UI)}"
        return f"{self.server.slug}+{uri}"

    def original_name(self, name: str) -> str | None:
        """Return the server's own name, or None where the name belongs to another server."""
        if not self.prefixed:
            return name
        mark = f"{self.server.slug}{SEPARATOR}"
        return name.removeprefix(mark) if name.startswith(mark) else None

    def original_uri(self, uri: str) -> str | None:
        """Return the server's own URI, or None where the URI belongs to another server."""
        if not self.prefixed:
            return uri
        for mark, scheme in ((f"{self.server.slug}+", ""), (f"{UI}{self.server.slug}/", UI)):
            if uri.startswith(mark):
                return scheme + uri.removeprefix(mark)
        return None

    def is_cut(self, name: str) -> bool:
        """Tell whether a client's name may be a cut one of this server: only its catalogue knows the whole."""
        return self.prefixed and len(name) == LONGEST and name[-9] == "_" and name.startswith(self.server.slug)

    def item(self, item: bytes) -> bytes:
        """Return a listed tool, prompt, resource or template under the names that the client sees."""
        if not self.prefixed:
            return item
        fields = decode_fields(item)
        if "uri" in fields or "uriTemplate" in fields:
            self._rename(fields, "uri", "uriTemplate")
        else:
            rename = self.tool_name if "inputSchema" in fields else self.name
            fields["name"] = raw(rename(decode_value(fields["name"])))
            if UI.encode() in bytes(item):  # it may be a `Raw`
                self._rename_app(fields)
        return encode(fields)

    def _rename_app(self, tool: Fields) -> None:
        """Rename the resource by which a tool is shown (the extension `io.modelcontextprotocol/ui`)."""
        meta = _object(tool.get("_meta"))
        app = _object(meta.get("ui"))
        if "resourceUri" in app:
            self._rename(app, "resourceUri")
            meta["ui"] = raw(app)
        self._rename(meta, "ui/resourceUri")  # as it was written before the extension had a name
        if meta:
            tool["_meta"] = raw(meta)

    def contents(self, result: bytes, member: str) -> bytes:
        """Return a result whose URIs (of resource contents, links, embedded resources) are the client's."""
        if not self.prefixed or b'"uri"' not in result:
            return result
        fields = decode_fields(result)
        if member in fields:
            fields[member] = raw([self._content(block) for block in decode_items(fields[member])])
        return encode(fields)

    def _content(self, block: bytes) -> Fields:
        fields = decode_fields(block)
        self._rename(fields, "uri")
        if "resource" in fields:
            inner = decode_fields(fields["resource"])
            self._rename(inner, "uri")
            fields["resource"] = raw(inner)
        content = fields.get("content")
        if content is not None and bytes(content).startswith(b"{"):  # a prompt's message holds one block
            fields["content"] = raw(self._content(bytes(content)))
        return fields

    def _rename(self, fields: Fields, *members: str) -> None:
        for member in members:
            if member in fields:
                fields[member] = raw(self.uri(decode_value(fields[member])))


def _object(value: msgspec.Raw | None) -> Fields:
    return decode_fields(value) if value is not None and bytes(value).startswith(b"{") else {}
