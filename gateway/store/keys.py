"""Every key of the store: type, content, lifetime, and who writes it.

The braces are part of a key: they name its hash slot (Redis Cluster), so all keys of one partition
live in one slot and a function over them is atomic. `{7}` is partition 7.

A partition's keys
    {p}:log        stream   field r = columba.log.Record; every fact about the partition's devices.
                            Written by scripts/{sessions,append,push,owner_append,edge_down}.lua;
                            trimmed by scripts/snapshot_commit.lua.
    {p}:sessions   hash     index -> "epoch edge start row connection", one for each device that is
                            online. scripts/sessions.lua; leftovers of dead edges by sessions_sweep.lua.
    {p}:counters   hash     epoch: last session epoch drawn; devices: next free index. sessions.lua.
    {p}:installs   hash     app number (2 bytes) + installation id (16 bytes) -> index. sessions.lua.
    {p}:apps       string   2 bytes a device, big endian: its app number, by index. sessions.lua.
    {p}:nonces     zset     nonces of registrations, scored by the ms after which they are forgotten.
    {p}:producers  hash     number + channel -> "start seq" of its last append; number + "!" -> the
                            highest start of that edge that is fenced off. All appending scripts;
                            edge_down.lua.
    {p}:content    hash     push id -> columba.device.Content of a push that lives here alone, until
                            it is final. push.lua; removed by the owner.
    {p}:owner      hash     fence, node, start of the owner. scripts/fence_take.lua.
    {p}:chunks     hash     "name@version" -> at most 256 KiB of snapshot. scripts/snapshot_chunk.lua;
                            snapshot_drop.lua.
    {p}:manifest   string   CRC-32 and gateway.store.snapshots.Manifest as JSON. snapshot_commit.lua.
    {p}:manifest:previous   string   the one before, kept as a fallback; the log reaches back to it.
    {p}:manifest:corrupt    string   one that could not be read, set aside for a look. snapshot_aside.lua
    {p}:trimmed    string   log position up to which the log may be trimmed. snapshot_commit.lua.
    {p}:push:{id}  hash     record of a push whose home this is: app, ttl_s, audience, content,
                            options, accepted_ms, left, and t:{q} = device indexes of each partition still to
                            reach. accept.lua, fanout_done.lua; expires with the push.
    {p}:fanouts    zset     pushes at home here with partitions left, scored by their accept (ms).
    {p}:idem:{h}   string   answer to an idempotency key; h = SHA-256 of app and key. accept.lua;
                            expires after api.idempotency_s.

The deployment's keys
    {leases}         zset   role:number -> ms (store's clock) at which the lease runs out.
    {leases}:info    hash   role:number -> JSON {start, down, ...what the holder says of itself}.
    {leases}:start   string counter of process starts.
    {leases}:request:{r}  string  "number start" of the lease that request r was given; gone after a
                            lease period. lease_take.lua.
    {leases}:folded:{n}  set   partitions that have folded the end of edge n.
    {apps}           hash   app id -> JSON {number, access_key, api_keys: [SHA-256, ...]}.
    {apps}:number    string counter of app numbers.
    {apps}:segments:{n}  hash  of app n: segment name -> JSON form of an audience.
    {apps}:quota:{n}:{day}   string   pushes given out to app n's API processes; gone after two days.
    {apps}:recalls   zset   "app-number push-id", scored by the ms after which it no longer matters.
    {deployment}     hash   partitions, schema: fixed by the first start.
"""

import zlib

LEASES = "{leases}"
LEASE_INFO = "{leases}:info"
LEASE_START = "{leases}:start"
APPS = "{apps}"
APP_NUMBER = "{apps}:number"
RECALLS = "{apps}:recalls"
DEPLOYMENT = "{deployment}"


def segments(app: int) -> str:
    return f"{APPS}:segments:{app}"


def quota(app: int, day: int) -> str:
    return f"{APPS}:quota:{app}:{day}"


def log(p: int) -> str:
    return f"{{{p}}}:log"


def sessions(p: int) -> str:
    return f"{{{p}}}:sessions"


def counters(p: int) -> str:
    return f"{{{p}}}:counters"


def installs(p: int) -> str:
    return f"{{{p}}}:installs"


def apps(p: int) -> str:
    return f"{{{p}}}:apps"


def nonces(p: int) -> str:
    return f"{{{p}}}:nonces"


def producers(p: int) -> str:
    return f"{{{p}}}:producers"


def content(p: int) -> str:
    return f"{{{p}}}:content"


def owner(p: int) -> str:
    return f"{{{p}}}:owner"


def chunks(p: int) -> str:
    return f"{{{p}}}:chunks"


def manifest(p: int) -> str:
    return f"{{{p}}}:manifest"


def previous_manifest(p: int) -> str:
    return f"{{{p}}}:manifest:previous"


def corrupt_manifest(p: int) -> str:
    return f"{{{p}}}:manifest:corrupt"


def trimmed(p: int) -> str:
    return f"{{{p}}}:trimmed"


def push_record(p: int, push_id: int) -> str:
    return f"{{{p}}}:push:{push_id}"


def fanouts(p: int) -> str:
    return f"{{{p}}}:fanouts"


def idempotency(p: int, digest: str) -> str:
    return f"{{{p}}}:idem:{digest}"


def folded(edge: int) -> str:
    return f"{LEASES}:folded:{edge}"


def lease_request(request: str) -> str:
    return f"{LEASES}:request:{request}"


def account_home(app: int, account: str, partitions: int) -> int:
    """Partition whose log has the list of an account's devices. Fixed for ever, as the log is."""
    return zlib.crc32(f"{app}/{account}".encode()) % partitions
