-- Give back entries that no handler has received, as if they had not been delivered this time.
--
-- KEYS  the topic
-- ARGV  group, consumer, the consumer that released entries are pending for, then each entry and how
--       often it had been delivered before

for at = 4, #ARGV, 2 do
  local entry = ARGV[at]
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], entry, entry, 1, ARGV[2])
  if #pending > 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, entry, 'TIME', 0, 'RETRYCOUNT', ARGV[at + 1], 'JUSTID')
  end
end
return 1
