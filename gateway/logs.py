"""Log lines on standard error: one JSON object each, or plain text on a terminal.

structlog costs about 11 MB of private memory and 150 ms, so edges get it from their zygote, which
imports this before it forks.
"""

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Final, TextIO

import structlog

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_FIRST: Final = ("timestamp", "level", "role", "event")


def configure(level: str, *, role: str, stream: TextIO | None = None) -> None:
    """Set up structlog, and logging for the libraries that use it. `level`: a key of LEVELS.

    Call it once a process; `take_role` names another role after a fork. Plain text when `stream`
    (standard error) is a terminal.
    """
    target = sys.stderr if stream is None else stream
    render = _plain if target.isatty() else structlog.processors.JSONRenderer(default=str)
    writer = _Writer(stream)
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _in_order,
        render,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: writer,
        # Loggers made at import must follow a later configure(), as after a fork.
        cache_logger_on_first_use=False,
    )
    take_role(role)
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    # Libraries are chatty below warning: redis tells of every reconnect, uvicorn of every start.
    root.setLevel(max(LEVELS[level], logging.WARNING))


def take_role(role: str) -> None:
    """What the lines of this process are marked with from now on."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(role=role)


def get(**bound: object) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry these fields."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**bound)
    return logger


class _Writer:
    """Writes lines; what cannot be written is dropped. A reader of standard error that has gone
    (`columba serve 2>&1 | head`) must not take the service with it."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        try:
            stream.write(f"{line}\n")
            stream.flush()
        except (OSError, ValueError):
            pass  # ValueError: it was closed

    debug = info = warning = error = critical = msg


class _Forward(logging.Handler):
    """Records of the standard library's logging become lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        bound: dict[str, object] = {"logger": record.name}
        if record.exc_info is not None:
            bound["exc_info"] = record.exc_info
        # By name: our levels are the keys of LEVELS, the library's may lie between them.
        level = "error" if record.levelno >= logging.ERROR else "warning"
        getattr(structlog.get_logger(), level)(record.getMessage(), **bound)


def _in_order(
    _logger: object, _method: str, fields: MutableMapping[str, object]
) -> Mapping[str, object]:
    """Time, level, role and event first: lines are read by people too."""
    ordered = {name: fields.pop(name) for name in _FIRST if name in fields}
    ordered.update(fields)
    return ordered


def _plain(_logger: object, _method: str, fields: MutableMapping[str, object]) -> str:
    exception = fields.pop("exception", None)
    time, level, role, event = (str(fields.pop(name, "")) for name in _FIRST)
    rest = "  ".join(f"{name}={value}" for name, value in fields.items())
    line = f"{time[11:19]} {level:<7} {role:<10} {event}" + (f"  {rest}" if rest else "")
    return line if exception is None else f"{line}\n{exception}"
