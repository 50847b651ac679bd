-- Give back all that a consumer holds, and remove it. XGROUP DELCONSUMER destroys what is pending, so it
-- is run in one step with the finding that nothing is.
--
-- KEYS  the topic
-- ARGV  group, consumer, the name that released entries are held under ('' to give nothing back: then a
--       consumer that holds something stays), and how long it must have been silent, in milliseconds
--
-- Returns 1 if the consumer has gone.

local topic, group, consumer, released, silent = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

if silent > 0 then
  local found = false
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', topic, group)) do
    local fields = {}
    for at = 1, #info, 2 do
      fields[info[at]] = info[at + 1]
    end
    found = found or (fields['name'] == consumer and fields['idle'] >= silent)
  end
  if not found then
    return 0
  end
end

while true do
  local pending = redis.call('XPENDING', topic, group, '-', '+', 100, consumer)
  if #pending == 0 then
    redis.call('XGROUP', 'DELCONSUMER', topic, group, consumer)
    return 1
  end
  if released == '' then
    return 0
  end
  for _, entry in ipairs(pending) do
    -- Silent since 1970, so that any consumer finds it overdue.
    redis.call('XCLAIM', topic, group, released, 0, entry[1], 'TIME', 0, 'JUSTID')
  end
end
