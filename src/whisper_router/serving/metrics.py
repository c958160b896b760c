"""Counters of the HTTP service for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from whisper_router.decision import Decision

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


class Metrics:
    """Requests, share to strong, latency by arm, queue, batches, errors, swaps."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def counter(name: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"whisper_router_{name}", what, labels, registry=self._registry)

        def gauge(name: str, what: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"whisper_router_{name}", what, labels, registry=self._registry)

        self.requests = counter("requests", "Requests answered.", ("endpoint", "status"))
        self.errors = counter("errors", "Requests answered with an error.", ("code",))
        self.segments = counter("segments", "Windows routed; strong over all is the share.", ("arm",))
        self.audio = counter("audio_seconds", "Seconds of sound routed.", ("arm",))
        self.reloads = counter("reloads", "New champions.", ("result",))
        self.shadow = counter(
            "shadow_windows", "Windows for the other arm: done, dropped (no time), failed.", ("result",)
        )
        self.shadow_s = counter("shadow_seconds", "Seconds that workers spent on them.")
        self.shadow_macs = counter("shadow_macs", "Multiply-accumulates spent on them, in no saving.")
        self.latency = Histogram(
            "whisper_router_latency_seconds",
            "From the arrival of the audio to the answer, by the arm of the recording.",
            ("arm",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.batch = Histogram(
            "whisper_router_batch_windows",
            "Windows of a batch.",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=self._registry,
        )
        self.waiting = gauge("queue_windows", "Windows that wait.")
        self.waiting_s = gauge("queue_seconds", "Seconds of sound that wait.")
        self.open = gauge("open_requests", "Requests that are being read, wait or run.")
        self.uploads = gauge("uploads", "Bodies in arrival, among the open requests.")
        self.connections = gauge("connections", "Open connections.")
        self.closed = counter(
            "connections_closed",
            "Connections that the server closed: idle, head, leftover, closing, unread (too long in that "
            "phase), too_many, stopping.",
            ("reason",),
        )
        self.served = gauge("served", "1 for the router that is served.", ("version", "policy"))
        for arm in ("weak", "strong"):
            self.segments.labels(arm)
            self.audio.labels(arm)

    def answered(self, made: Decision, latency_s: float) -> None:
        """Count what was routed."""
        for segment in made.segments:
            self.segments.labels(segment.arm).inc()
            self.audio.labels(segment.arm).inc(segment.end_s - segment.start_s)
        self.latency.labels(made.arm).observe(latency_s)

    def text(self) -> bytes:
        """In Prometheus's format."""
        return bytes(generate_latest(self._registry))
