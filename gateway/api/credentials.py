"""Who calls: the API key of a request, and the app that it opens."""

from gateway.api.errors import ApiError, Errno
from gateway.store.apps import App, Apps
from gateway.store.errors import StoreUnavailable

_SCHEME = "bearer "


def bearer(authorization: str | None) -> str:
    """The API key of an Authorization header (RFC 6750, 2.1). Raises ApiError."""
    if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
        raise ApiError(Errno.NO_KEY)
    return authorization[len(_SCHEME) :].strip()


async def opened(apps: Apps, app_id: str, authorization: str | None) -> App:
    """The app, if the caller has one of its keys. Raises ApiError.

    A good key of another app is told the same for an app that exists and for one that does not.
    Keys are not cached by their digest: a SHA-256 of 43 bytes costs half a microsecond.
    """
    key = bearer(authorization)
    app = apps.get(app_id)
    if app is not None and app.allows(key):
        return app
    if app is None:
        try:
            app = await apps.find(app_id)
        except StoreUnavailable:
            raise ApiError(Errno.STORE_AWAY) from None
        if app is not None and app.allows(key):
            return app
    raise ApiError(Errno.WRONG_KEY if apps.of_key(key) is None else Errno.NO_APP)
