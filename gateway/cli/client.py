"""The command line as a client of the API: HTTP with the standard library, one request at a time."""

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gateway import demokeys
from gateway.cli import partitions
from gateway.cli.settings import UsageProblem, addresses
from gateway.config import Config

API_VARIABLE: Final = "COLUMBA_API"
APP_VARIABLE: Final = "COLUMBA_APP"
KEY_VARIABLE: Final = "COLUMBA_API_KEY"
_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.5


class ApiProblem(Exception):
    """The API did not answer, or refused; one sentence for the user. `status` is 0 without answer."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class ApiClient:
    """Calls of one app's server."""

    def __init__(self, url: str, app: str, api_key: str) -> None:
        self._url = url.rstrip("/")
        self._app = app
        self._api_key = api_key
        # Not through a proxy of the environment: the API is ours, mostly on this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def push(self, body: Mapping[str, object], idempotency_key: str | None) -> dict[str, Any]:
        """Raises ApiProblem."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        answer = self._request("POST", f"/v1/apps/{self._app}/pushes", body, headers)
        if not isinstance(answer, dict) or "push_id" not in answer:
            raise ApiProblem(f"{self._url} answered without a push_id: is it a Columba API?")
        return answer

    def decide(self, push_id: str, verb: str) -> dict[str, Any]:
        """`verb` is pause, resume, stop or recall; its state and counts then. Raises ApiProblem."""
        named = urllib.parse.quote(push_id, safe="")
        answer = self._request("POST", f"/v1/apps/{self._app}/pushes/{named}:{verb}")
        if not isinstance(answer, dict) or not answer.keys() >= {"push_id", "state", "counts"}:
            raise ApiProblem(f"{self._url} answered without a state: is it a Columba API?")
        return answer

    def ledger(self, push_id: str, device_id: str) -> dict[str, Any]:
        """What became of a push at one device, and why. Raises ApiProblem."""
        push, device = (urllib.parse.quote(named, safe="") for named in (push_id, device_id))
        path = f"/v1/apps/{self._app}/pushes/{push}:explain?device={device}"
        answer = self._request("GET", path)
        if not isinstance(answer, dict) or not answer.keys() >= {"state", "why", "steps"}:
            raise ApiProblem(f"{self._url} answered without a ledger: is it a Columba API?")
        return answer

    def audience(self, verb: str, expression: str) -> dict[str, Any]:
        """What an audience means now; `verb` is count or explain. Raises ApiProblem."""
        path = f"/v1/apps/{self._app}/audience:{verb}"
        answer = self._request("POST", path, {"audience": expression})
        if not isinstance(answer, dict) or "count" not in answer:
            raise ApiProblem(f"{self._url} answered without a count: is it a Columba API?")
        return answer

    def counts(self, push_id: str) -> dict[str, Any]:
        """Devices by state. Raises ApiProblem."""
        answer = self._request("GET", f"/v1/apps/{self._app}/pushes/{push_id}")
        counts: dict[str, Any] = answer.get("counts", answer)
        return counts

    def status(self) -> dict[str, Any]:
        """`ready`, `readyz` and `status`, each as far as the API tells. Raises ApiProblem."""
        try:
            ready, said = True, self._request("GET", "/readyz?verbose")
        except ApiProblem as problem:
            if not problem.status:
                raise
            ready, said = False, str(problem)
        try:
            status = self._request("GET", "/v1/status")
        except ApiProblem as problem:
            status = {"error": str(problem)}
        return {"ready": ready, "readyz": said, "status": status}

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        if not self._url.startswith(("http://", "https://")):
            raise ApiProblem(f"{self._url!r} is not the address of an API: http://host:port")
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        if self._api_key:
            request.add_header("Authorization", f"Bearer {self._api_key}")
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                raw = response.read()
        except urllib.error.HTTPError as refusal:
            with refusal:
                text = _refusal_text(refusal.read())
            raise ApiProblem(f"the API answered {refusal.code}: {text}", refusal.code) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ApiProblem(f"no answer from {self._url}: {reason}") from None
        try:
            return json.loads(raw)
        except ValueError:
            return raw.decode(errors="replace").strip()


def _refusal_text(raw: bytes) -> str:
    """The sentence in an error body, or its beginning."""
    text = raw.decode(errors="replace").strip()
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return text[:200]


def client_of(
    config: Config, *, api: str | None, app: str | None, api_key: str | None
) -> ApiClient:
    """From flags, else the environment, else what the first start left in the data directory."""
    kept = demokeys.read(Path(config.service.data_dir))
    url = api or os.environ.get(API_VARIABLE) or addresses(config).api
    app = app or os.environ.get(APP_VARIABLE) or ("demo" if kept is None else kept.app)
    key = api_key or os.environ.get(KEY_VARIABLE)
    if not key and kept is not None and kept.app == app:
        key = kept.api_key
    return ApiClient(url, app, key or "")


def audience_of(*, devices: Sequence[str], everybody: bool, to: str | None) -> object:
    """Whom `columba push` is for. Raises UsageProblem."""
    if everybody + bool(devices) + (to is not None) != 1:
        raise UsageProblem("name the audience: --device ID (once or more), --to EXPR, or --all")
    if devices:
        return {"devices": list(devices)}
    return "all" if to is None else to


def push_body(
    audience: object,
    *,
    title: str | None,
    body: str | None,
    data: Sequence[str],
    dealt: Mapping[str, object],
) -> dict[str, object]:
    """The request of `columba push`; `dealt` are fields of how it is dealt out, None where nothing is
    said. Raises UsageProblem."""
    if title is None and body is None and not data:
        raise UsageProblem("say something: --title, --body or --data key=value")
    request: dict[str, object] = {"audience": audience}
    if title is not None or body is not None:
        request["notification"] = {"title": title or "", "body": body or ""}
    if data:
        pairs = [text.partition("=") for text in data]
        if not all(equals and key for key, equals, _ in pairs):
            raise UsageProblem("--data takes key=value")
        request["data"] = {key: value for key, _, value in pairs}
    request.update((name, said) for name, said in dealt.items() if said is not None)
    return request


def status_lines(
    status: Mapping[str, Any], pids: Mapping[str, Any], most: int | None = partitions.MOST
) -> list[str]:
    """What `columba status` shows of the API's answer: a line for each process, for each fact; then at
    most so many partitions."""
    lines = []
    for name, value in status.items():
        if name != "processes" or not isinstance(value, dict):
            lines.append(f"{name:<12}{value}")
            continue
        for role, processes in value.items():
            for process in processes:
                told = f"{role} {process.get('number')}"
                stats = process.get("stats") or {}
                facts = [] if process.get("answered", True) else ["does not answer"]
                if "columba_connections" in stats:
                    facts.append(f"{stats['columba_connections']:.0f} connections")
                if "columba_loop_stall_seconds" in stats:
                    stall_ms = stats["columba_loop_stall_seconds"] * 1000
                    facts.append(f"longest stall {stall_ms:.0f} ms")
                lines.append(f"{told:<12}{', '.join(facts) or 'answers'}")
    lines += [f"{name:<12}pid {value}" for name, value in pids.items()]
    lines += partitions.lines(status, most)
    return lines


def watch(
    client: ApiClient, push_id: str, wait_s: float, show: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Poll a push's counts until nothing is pending or the time is up; `show` gets each change."""
    deadline_s = time.monotonic() + wait_s
    last: dict[str, Any] = {}
    while True:
        try:
            counts = client.counts(push_id)
        except ApiProblem as problem:
            # An owner on the move: it is accepted, only its counts are away for the moment.
            if problem.status not in (404, 429, 503):
                raise
            counts = last
        if counts != last:
            show(counts)
            last = counts
        settled = bool(counts.get("targeted")) and not counts.get("pending")
        left_s = deadline_s - time.monotonic()
        if settled or left_s <= 0:
            return last
        time.sleep(min(_POLL_S, left_s))
