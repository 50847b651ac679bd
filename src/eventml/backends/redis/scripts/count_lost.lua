-- Count the entries that were removed from a topic before a group had read them: each once, whichever member
-- looks first. Of all entries ever added, those were removed that are neither read nor there to be read. From
-- then on the group's ENTRIESREAD counts them as read, so that the next call does not count them again.
--
-- The AOF and the replicas are told which entries a group has read, but not how many. After a restart or a
-- failover that number would be too low, and what was read would count as removed. So they are told at each call
-- after which the group has read on that it is unknown, and counting begins again there.
--
-- KEYS  the topic
-- ARGV  the group, and the last entry that it had read at the last call of this member
--
-- Returns how many, the last entry that the group has read, and the first one that there is. 0 also where the
-- server does not say: before Redis 7.0, or if the user may not call XGROUP SETID.

local topic = KEYS[1]

local function named(info)
  local fields = {}
  for at = 1, #info, 2 do
    fields[info[at]] = info[at + 1]
  end
  return fields
end

local group = nil
for _, info in ipairs(redis.pcall('XINFO', 'GROUPS', topic)) do
  local fields = named(info)
  group = fields['name'] == ARGV[1] and fields or group
end
if not group then
  return { 0 }
end
local stream = named(redis.call('XINFO', 'STREAM', topic))
local added, read, last = stream['entries-added'], group['entries-read'], group['last-delivered-id']
local known = read
if not added then
  return { 0 }
elseif last == stream['last-generated-id'] then
  known = added
elseif #redis.call('XRANGE', topic, '-', last, 'COUNT', 1) == 0 then
  known = added - stream['length']
end -- else the beginning was read. Whether entries were deleted behind it could be known only by copying all.
if not known or (known == read and last == ARGV[2]) then
  return { 0 }
end
if redis.pcall('XGROUP', 'SETID', topic, group['name'], last).err then
  return { 0 }
end
if redis.set_repl then -- not all servers that speak the protocol have it, nor replicas
  redis.set_repl(redis.REPL_NONE)
end
redis.call('XGROUP', 'SETID', topic, group['name'], last, 'ENTRIESREAD', known)
-- Without the group's count (its start was never read, say) this call only begins to count.
return { read and math.max(known - read, 0) or 0, last, (stream['first-entry'] or { 'the end' })[1] }
