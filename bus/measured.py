"""What is measured: every metric of every part, in one place. `docs/metrics.md` is made of it.

Names follow Prometheus: base units, `_total` for what only grows. No label names a token, a user or a tool.
"""

from mcpctl.bus.metrics import Counter, Gauge, Histogram

PLACE = ("project", "server")

# --- every part ---

REQUESTS = Counter(
    "mcpctl_requests_total",
    "Requests that a part has answered, by endpoint (a verb of its contract; `mcp`, `rest`) and outcome: `ok`, or the "
    "code of the error.",
    ("service", "endpoint", "outcome"),
)
REQUEST_SECONDS = Histogram(
    "mcpctl_request_duration_seconds", "How long the answers to these took.", ("service", "endpoint")
)
BUS_CONNECTED = Gauge("mcpctl_bus_connected", "1 while the part is connected to the bus.", ("caller",), merge="min")
BUS_RECONNECTS = Gauge("mcpctl_bus_reconnects", "Times that the connection was made anew.", ("caller",))
BUS_PENDING = Gauge(
    "mcpctl_bus_pending_messages", "Messages that have arrived and wait for the event loop.", ("caller",)
)
BUS_TASKS = Gauge("mcpctl_bus_tasks", "Messages that are being handled.", ("caller",))
BUS_TASKS_MOST = Gauge("mcpctl_bus_tasks_limit", "How many may be: one more is dropped.", ("caller",))
LOOP_LAG = Histogram(
    "mcpctl_event_loop_lag_seconds", "How late the event loop comes to what is due, looked at twice a second."
)
LEASE_LEFT = Gauge(
    "mcpctl_lease_remaining_seconds",
    "Seconds for which what is known of a feed may still be believed; 0 and less: it may not.",
    ("feed",),
    merge="min",
)
FEED_AGE = Gauge(
    "mcpctl_feed_lag_seconds", "Seconds since the sending of the latest pull that was answered.", ("feed",), merge="max"
)
FEED_HEARD = Gauge(
    "mcpctl_feed_heard_change", "Number of the latest change that has been heard.", ("feed",), merge="min"
)
CHANGES = Counter("mcpctl_feed_changes_total", "Changes that this owner of a feed has recorded.", ("feed",))
FEED_CHANGE = Gauge(
    "mcpctl_feed_change", "Number of the latest change that this owner of a feed knows of.", ("feed",), merge="max"
)
FOLLOWERS = Gauge(
    "mcpctl_feed_followers", "Followers that hold a lease which this replica has given, by feed.", ("feed",)
)
AUDIT_WAITING = Gauge(
    "mcpctl_audit_unacknowledged_messages",
    "Batches of audit events that JetStream has not acknowledged yet.",
    ("caller",),
)
AUDIT_AGE = Gauge(
    "mcpctl_audit_unacknowledged_seconds",
    "Age of the oldest of them; from 1 on new calls are refused.",
    ("caller",),
    merge="max",
)
AUDIT_RETRIES = Gauge(
    "mcpctl_audit_retries", "Attempts to append a batch that were not acknowledged, since the start.", ("caller",)
)

# --- the gateway ---

HTTP_REQUESTS = Counter(
    "mcpctl_http_requests_total",
    "HTTP requests answered, by route (`mcp`, `rest`), method and status.",
    ("route", "method", "status"),
)
HTTP_SECONDS = Histogram(
    "mcpctl_http_request_duration_seconds", "Time to their answers; streams are left out.", ("route",)
)
REFUSALS = Counter(
    "mcpctl_refusals_total",
    "MCP requests turned away at the gateway: `host`, `bearer`, `access`, `limit`, `unavailable`, `request`.",
    ("reason",),
)
WAITING = Gauge("mcpctl_requests_waiting", "Requests that wait for their turn: the routers do not keep up.")
STREAMS = Gauge("mcpctl_streams", "Open streams of changes (listens, GET streams of sessions).")
STREAM_BYTES = Counter("mcpctl_stream_bytes_total", "Bytes of events written to streams.")
SESSIONS = Gauge("mcpctl_sessions", "Sessions of older clients that this gateway has in its cache.")
RUNNING = Gauge("mcpctl_gateway_calls", "Calls that wait for the routers' frames, streams included.")
CONNECTIONS = Gauge("mcpctl_http_connections", "Open HTTP connections.")
CERTIFICATE_LEFT = Gauge(
    "mcpctl_certificate_remaining_seconds", "Seconds until the gateway's certificate ends.", merge="min"
)

# --- the router ---

CALLS = Counter(
    "mcpctl_calls_total",
    "MCP requests carried out, by project, server (`_`: about none, or about several) and outcome: `ok`, `error` (the "
    "server's own), or the code of the error. A project is named once the caller has been let into it.",
    (*PLACE, "outcome"),
    open=PLACE,
    most=5000,
)
CALL_SECONDS = Histogram(
    "mcpctl_call_duration_seconds",
    "Time at the router for a call, from the bus to the bus.",
    ("server",),
    open=("server",),
)
UPSTREAM_SECONDS = Histogram(
    "mcpctl_upstream_duration_seconds", "Part of it that was the server's.", ("server",), open=("server",)
)
AT_WORK = Gauge("mcpctl_router_calls", "Calls at hand, listens left out.")
LISTENS = Gauge("mcpctl_router_listens", "Listens at hand.")
PARKED = Gauge("mcpctl_router_parked_calls", "Calls that wait for their client to answer the server.")
UPSTREAMS = Gauge(
    "mcpctl_upstream_connections",
    "Connections to servers, by server and state: `up`, or `away` after a failure.",
    ("server", "state"),
    open=("server",),
)
STDIO = Gauge("mcpctl_stdio_processes", "Processes of stdio servers that run.")
BREAKERS = Gauge(
    "mcpctl_breaker_state",
    "The breaker of a server: 0 closed, 1 half-open, 2 open.",
    ("server",),
    open=("server",),
    merge="max",
)

# --- the AuditSink ---

ENTRIES = Counter("mcpctl_audit_entries_total", "Events that this sink has written to the ledger.")
ANCHORS = Counter(
    "mcpctl_audit_anchors_total", "Heads of chains that this sink has kept in its file, by outcome.", ("outcome",)
)
CHAINS = Gauge("mcpctl_audit_chains", "Chains (one a project) that this sink knows the head of.", merge="max")
LEDGER_PENDING = Gauge(
    "mcpctl_audit_ledger_pending_messages", "Messages of the stream that are not in the ledger yet.", merge="max"
)
LEDGER_LAG = Gauge("mcpctl_audit_ledger_lag_seconds", "How long the oldest of them waits at the most.", merge="max")
STREAM_CURRENT = Gauge(
    "mcpctl_audit_stream_replicas_current", "Replicas of the audit stream that are current.", merge="min"
)
STREAM_REPLICAS = Gauge("mcpctl_audit_stream_replicas", "Replicas that the audit stream should have.", merge="max")
