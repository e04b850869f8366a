"""One view's rows in Redis, compared and set on the server: what the online store writes with.

A row lands unless the stored one is newer by event time. At an equal event time it lands unless
both have a created time and the stored one's is later. A stored event time that lies further ahead
of the server's clock than `max_ahead_s` is not believed, and never stands in a row's way.

The created time is kept in a private field beside the row, with the event time it belongs to: a
writer that does not know the field leaves it behind, and it then says nothing.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from features.codec import MARKER_FIELD, updated_at_field

ROWS_PER_CALL: Final = 50
CALLS_PER_TRIP: Final = 100
T = TypeVar("T")

_WRITE: Final = """
local stamp, tie, ttl = ARGV[1], ARGV[2], tonumber(ARGV[4])
local believed = tonumber(redis.call('TIME')[1]) + tonumber(ARGV[3])

local function varint(bytes, at)
  local number, inverse, scale, size, byte = 0, 0, 1, 0, 128
  while byte > 127 do
    byte = string.byte(bytes, at + size)
    if not byte then return 0, at + size + 1 end
    number = number + byte % 128 * scale
    if size < 9 then inverse = inverse + (127 - byte % 128) * scale end
    scale, size = scale * 128, size + 1
  end
  if size == 10 then number = -inverse - 1 end
  return number, at + size
end

local function time_of(bytes)
  local seconds, nanos, at, tag, number = 0, 0, 1, 0, 0
  while at <= #bytes do
    tag = string.byte(bytes, at)
    number, at = varint(bytes, at + 1)
    if tag == 8 then seconds = number elseif tag == 16 then nanos = number end
  end
  return seconds, nanos
end

local function later(s1, n1, s2, n2) return s1 > s2 or (s1 == s2 and n1 > n2) end

local done = {}
local at = 5
for i, key in ipairs(KEYS) do
  local seconds, nanos = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local created, size = ARGV[at + 2], tonumber(ARGV[at + 3])
  at = at + 4
  local stored = redis.call('HGET', key, stamp)
  done[i] = 1
  if stored then
    local s, n = time_of(stored)
    if s <= believed then
      if later(s, n, seconds, nanos) then
        done[i] = 0
      elseif s == seconds and n == nanos then
        local known = redis.call('HGET', key, tie)
        if known and created == '' then
          redis.call('HDEL', key, tie)
        elseif known then
          local es, en, cs, cn = string.match(known, '^(%S+) (%S+) (%S+) (%S+)$')
          local s2, n2 = string.match(created, '^(%S+) (%S+)$')
          if tonumber(es) == s and tonumber(en) == n
            and later(tonumber(cs), tonumber(cn), tonumber(s2), tonumber(n2)) then
            done[i] = 0
          end
        end
      end
    end
  end
  if done[i] == 1 then
    for first = at, at + size - 1, 4000 do
      redis.call('HSET', key, unpack(ARGV, first, math.min(first + 3999, at + size - 1)))
    end
    if created ~= '' then
      redis.call('HSET', key, tie, ARGV[at - 4] .. ' ' .. ARGV[at - 3] .. ' ' .. created)
    end
    if ttl > 0 then redis.call('EXPIRE', key, ttl) end
  end
  at = at + size
end
return done
"""

_DELETE: Final = """
local gone = 0
for _, key in ipairs(KEYS) do
  if redis.call('HEXISTS', key, ARGV[2]) == 1 then
    gone = gone + 1
    for first = 2, #ARGV, 4000 do
      redis.call('HDEL', key, unpack(ARGV, first, math.min(first + 3999, #ARGV)))
    end
    local rows = false
    for _, field in ipairs(redis.call('HKEYS', key)) do
      if field == ARGV[1] or string.sub(field, 1, 4) == '_ts:' then rows = true end
    end
    if not rows then redis.call('DEL', key) end
  end
end
return gone
"""


class Moment(NamedTuple):
    """An instant: seconds since the epoch (negative before it) and nanoseconds, 0 to 10⁹ − 1."""

    seconds: int
    nanos: int


@dataclass(frozen=True, slots=True)
class OnlineRow:
    """One row of a view, to be written: fields (name → bytes) hold its event time as well."""

    key: bytes
    event_time: Moment
    created: Moment | None
    fields: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a script: its text, the keys it touches, its arguments."""

    script: str
    keys: Sequence[bytes]
    arguments: Sequence[bytes | int | str]

    def by_digest(self) -> tuple[bytes | int | str, ...]:
        """The command that runs a script the server has."""
        return ("EVALSHA", _SHA[self.script], len(self.keys), *self.keys, *self.arguments)

    def by_text(self) -> tuple[bytes | int | str, ...]:
        """The command that gives the server the script, and runs it."""
        return ("EVAL", self.script, len(self.keys), *self.keys, *self.arguments)


def created_field(view: str) -> bytes:
    """The private hash field that breaks ties between rows of one event time."""
    return b"_ct:" + view.encode()


def write_calls(
    view: str, rows: Sequence[OnlineRow], max_ahead_s: int, ttl_s: int, rows_per_call: int
) -> Iterator[Call]:
    """The calls that write a view's rows in their order; each answers 1 or 0 a row: did it land."""
    common = (updated_at_field(view), created_field(view), max_ahead_s, ttl_s)
    for part in _parts(rows, rows_per_call):
        arguments: list[bytes | int | str] = list(common)
        for row in part:
            created = "" if row.created is None else f"{row.created.seconds} {row.created.nanos}"
            arguments += (*row.event_time, created, 2 * len(row.fields))
            for field in row.fields.items():
                arguments += field
        yield Call(_WRITE, [row.key for row in part], arguments)


def delete_calls(
    view: str, fields: Sequence[bytes], keys: Sequence[bytes], rows_per_call: int
) -> Iterator[Call]:
    """The calls that delete a view's rows; each answers how many there were.

    A hash that then holds no row and no marker of the stream goes with them.
    """
    arguments = (MARKER_FIELD, updated_at_field(view), created_field(view), *fields)
    for part in _parts(keys, rows_per_call):
        yield Call(_DELETE, part, arguments)


def trips(calls: Iterator[Call]) -> Iterator[list[Call]]:
    """The calls in the groups that are sent together."""
    group: list[Call] = []
    for call in calls:
        group.append(call)
        if len(group) == CALLS_PER_TRIP:
            yield group
            group = []
    if group:
        yield group


def _parts(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(things), size):
        yield things[start : start + size]


_SHA: Final = {
    script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    for script in (_WRITE, _DELETE)
}
