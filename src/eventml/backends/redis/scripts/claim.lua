-- Claim entries whose leases have expired, with their fields.
--
-- The server counts the deliveries of an entry; eventml sets that count to the number of the attempt: 1 when it
-- is read, 2 when it is claimed then, since its reader may have called a handler with it. From then on
-- `Consumer.begin` counts, and a claim leaves the count as it is. 0: given back, and no handler had received it.
--
-- KEYS  the topic
-- ARGV  group, consumer, the consumer that released entries are pending for, the lease in milliseconds, the
--       cursor of XAUTOCLAIM, how many entries to look for at most, and how many bytes of fields to return at
--       most; an entry that is larger is returned alone
--
-- Returns the next cursor; the entries, each with its id, its fields and its attempt; and how many pending
-- entries were acknowledged because they are not in the topic any more.

local topic, group, consumer, released = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local cursor, bytes_left = ARGV[5], tonumber(ARGV[7])
local claimed, trimmed = {}, 0
for _ = 1, tonumber(ARGV[6]) do
  local reply = redis.call('XAUTOCLAIM', topic, group, consumer, ARGV[4], cursor, 'COUNT', 1, 'JUSTID')
  trimmed = trimmed + (reply[3] and #reply[3] or 0) -- from Redis 7.0 on
  cursor = reply[1]
  local id = reply[2][1]
  local entry = id and redis.call('XRANGE', topic, id, id)[1]
  if entry then
    local attempts = redis.call('XPENDING', topic, group, id, id, 1)[1][4]
    for _, field in ipairs(entry[2]) do
      bytes_left = bytes_left - #field
    end
    if bytes_left < 0 and #claimed > 0 then -- the next call begins with it
      redis.call('XCLAIM', topic, group, released, 0, id, 'TIME', 0, 'RETRYCOUNT', attempts, 'JUSTID')
      return { id, claimed, trimmed }
    end
    if attempts < 2 then
      attempts = attempts + 1
      redis.call('XCLAIM', topic, group, consumer, 0, id, 'RETRYCOUNT', attempts, 'JUSTID')
    end
    claimed[#claimed + 1] = { id, entry[2], attempts }
  elseif id then
    trimmed = trimmed + redis.call('XACK', topic, group, id)
  end
  if cursor == '0-0' then
    break
  end
end
return { cursor, claimed, trimmed }
