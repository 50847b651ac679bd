-- Acknowledge entries, and add the outputs of those that were still pending: one input, one output.
--
-- KEYS  the topic of the entries, then the topics of the outputs, and last, if the group deduplicates,
--       the sorted set of the ids that it has recorded
-- ARGV  group, consumer, how many ids the group records (0: it does not deduplicate), the number of metas,
--       the metas, then runs of completions of one shape:
--         how many, what to do with their ids (0: nothing; 1: record them, and drop the outputs of those
--         recorded before; 2: record them), how many outputs each, and for each output its topic (as an
--         index of KEYS), its meta (as an index of the metas; 0: none), and which other fields it has
--         (1: id, 2: key, 3: both, 0: neither);
--         then for each completion its entry[, its id if that is recorded], and for each output its
--         data[, id][, key]
--
-- Returns how many completions were dropped because another member had completed the entry, and then for
-- each completion that was refused its position and the reason.

local group, consumer, window = ARGV[1], ARGV[2], tonumber(ARGV[3])
local call, attempt = redis.call, redis.pcall
local source = KEYS[1]
local topics_end, recorded, last = #KEYS, nil, nil

-- The scores of recorded ids count up: the lowest was recorded first. This call also fails, before anything
-- is written, if the key is no sorted set.
if window > 0 then
  recorded, topics_end = KEYS[#KEYS], #KEYS - 1
  last = tonumber(call('ZRANGE', recorded, -1, -1, 'WITHSCORES')[2]) or 0
end

-- Changes nothing, since the consumer exists. But Redis refuses it when memory is full, and XACK not: it
-- checks the memory at the first write of a script only, so that outputs would be added in spite of it.
-- It also fails with NOGROUP where XACK returns 0.
if topics_end > 1 then
  call('XGROUP', 'CREATECONSUMER', source, group, consumer)
end

-- Find topics that will refuse an output before its input is acknowledged.
local unusable = {}
for key = 2, topics_end do
  local length = attempt('XLEN', KEYS[key])
  if type(length) == 'table' then
    unusable[key] = length.err
  end
end

local function add(topic, meta, fields, data, id, key)
  if fields == 1 and meta then
    return attempt('XADD', topic, '*', 'data', data, 'id', id, 'meta', meta)
  elseif fields == 3 and meta then
    return attempt('XADD', topic, '*', 'data', data, 'id', id, 'meta', meta, 'key', key)
  end
  local named = { 'data', data }
  if fields % 2 == 1 then
    named[#named + 1], named[#named + 2] = 'id', id
  end
  if meta then
    named[#named + 1], named[#named + 2] = 'meta', meta
  end
  if fields >= 2 then
    named[#named + 1], named[#named + 2] = 'key', key
  end
  return attempt('XADD', topic, '*', unpack(named))
end

local metas = {}
local at = 4 + ARGV[4]
for number = 1, ARGV[4] do
  metas[number] = ARGV[4 + number]
end

local answer = { 0 }
local position = 0
while at < #ARGV do
  local count, mode, outputs = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  at = at + 3
  local topics, meta, fields, refused = {}, {}, {}, nil
  for number = 1, outputs do
    local key = tonumber(ARGV[at + 1])
    topics[number], meta[number], fields[number] = KEYS[key], metas[tonumber(ARGV[at + 2])], tonumber(ARGV[at + 3])
    refused = refused or unusable[key]
    at = at + 3
  end
  for _ = 1, count do
    at = at + 1
    local entry = ARGV[at]
    local acked = not refused and call('XACK', source, group, entry) == 1
    local failure = refused
    local id_of_input, duplicate = nil, false
    if mode > 0 then
      at = at + 1
      id_of_input = ARGV[at]
      duplicate = acked and mode == 1 and call('ZSCORE', recorded, id_of_input)
    end
    for number = 1, outputs do
      local data, id, key = ARGV[at + 1], nil, nil
      at = at + 1
      if fields[number] % 2 == 1 then
        at = at + 1
        id = ARGV[at]
      end
      if fields[number] >= 2 then
        at = at + 1
        key = ARGV[at]
      end
      if acked and not failure and not duplicate then
        local added = add(topics[number], meta[number], fields[number], data, id, key)
        failure = type(added) == 'table' and added.err or nil
      end
    end
    if failure then
      if acked then
        -- Refused for a reason that was not found above: make the entry pending again.
        attempt('XCLAIM', source, group, consumer, 0, entry, 'RETRYCOUNT', 1, 'FORCE', 'JUSTID')
      end
      answer[#answer + 1] = position
      answer[#answer + 1] = failure
    elseif not acked then
      answer[1] = answer[1] + 1
    elseif id_of_input then
      last = last + 1
      call('ZADD', recorded, last, id_of_input)
    end
    position = position + 1
  end
end
if window > 0 then
  call('ZREMRANGEBYRANK', recorded, 0, -window - 1)
end
return answer
