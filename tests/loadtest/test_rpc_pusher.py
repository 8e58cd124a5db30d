"""What the pusher puts together by hand is what protobuf makes of it."""

from hypothesis import given
from hypothesis import strategies as st

from loadtest.rpc_pusher import Requests
from protocol.frames import split
from protocol.rpc_frames import MAX_BODY, REQUEST, REQUEST_HEAD, Method
from protocol.schema import device_pb2, rpc_pb2


@given(
    call=st.integers(0, 2**32 - 1),
    device=st.integers(0, 2**64 - 1),
    sent_ns=st.integers(0, 2**63 - 1),
)
def test_a_request_is_a_push_to_one_device_with_the_time_in_its_data(
    call: int, device: int, sent_ns: int
) -> None:
    data = Requests("app").frame(call, device, sent_ns)
    frames, used = split(data, MAX_BODY)
    assert used == len(data)
    ((kind, body),) = frames
    assert kind == REQUEST and REQUEST_HEAD.unpack_from(body) == (call, Method.PUSH)
    request = rpc_pb2.PushRequest.FromString(body[REQUEST_HEAD.size :])
    content = device_pb2.Content.FromString(request.content)
    assert (request.app, list(request.devices), request.ttl_s) == ("app", [device], 3600)
    assert content.notification.title == "Columba" and content.notification.body
    assert dict(content.data) == {"sent_ns": str(sent_ns)}
