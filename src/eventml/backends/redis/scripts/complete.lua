-- Acknowledge entries, and add the outputs of those that were still pending: one input, one output.
--
-- KEYS  the topic of the entries, then the topics of the outputs, and last, where finished ids are
--       remembered, the sorted set that holds them
-- ARGV  group, consumer, how many finished ids are remembered (0: none), the number of metas, the metas,
--       then runs of completions of one shape:
--         how many, whether their ids are remembered (0: no; 1: yes, and if they were, their outputs are
--         dropped; 2: yes), how many outputs each, and for each output its topic (in KEYS), its meta
--         (0: none), and which fields it has besides (1: id, 2: key, 3: both, 0: neither);
--         then for each completion its entry[, its id if that is remembered], and for each output its
--         data[, id][, key]
--
-- Returns how many completions were dropped, because somebody else had completed theirs; how many had
-- their outputs dropped, because their ids had been finished; and then for each that was refused its
-- position and the reason.

local group, consumer, within = ARGV[1], ARGV[2], tonumber(ARGV[3])
local call, attempt = redis.call, redis.pcall
local source = KEYS[1]
local topics_end, finished, last = #KEYS, nil, nil

-- The scores of finished ids count up: the lowest was finished first. This also finds out, before anything
-- is written, whether the key is what it should be.
if within > 0 then
  finished, topics_end = KEYS[#KEYS], #KEYS - 1
  last = tonumber(call('ZRANGE', finished, -1, -1, 'WITHSCORES')[2]) or 0
end

-- Changes nothing, since the consumer exists. But it is refused when the memory is full, where XACK is
-- not: after the first write of a script Redis no longer looks, and the outputs would go on growing.
-- It also says NOGROUP where XACK says 0.
if topics_end > 1 then
  call('XGROUP', 'CREATECONSUMER', source, group, consumer)
end

-- An output that will be refused has to be found before its input is acknowledged.
local unfit = {}
for key = 2, topics_end do
  local length = attempt('XLEN', KEYS[key])
  if type(length) == 'table' then
    unfit[key] = length.err
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

local answer = { 0, 0 }
local position = 0
while at < #ARGV do
  local count, remember, outputs = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  at = at + 3
  local topics, meta, fields, refused = {}, {}, {}, nil
  for number = 1, outputs do
    local key = tonumber(ARGV[at + 1])
    topics[number], meta[number], fields[number] = KEYS[key], metas[tonumber(ARGV[at + 2])], tonumber(ARGV[at + 3])
    refused = refused or unfit[key]
    at = at + 3
  end
  for _ = 1, count do
    at = at + 1
    local entry = ARGV[at]
    local ours = not refused and call('XACK', source, group, entry) == 1
    local failure = refused
    local input, repeated = nil, false
    if remember > 0 then
      at = at + 1
      input = ARGV[at]
      repeated = ours and remember == 1 and call('ZSCORE', finished, input)
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
      if ours and not failure and not repeated then
        local added = add(topics[number], meta[number], fields[number], data, id, key)
        failure = type(added) == 'table' and added.err or nil
      end
    end
    if failure then
      if ours then
        -- Not foreseen above: make it pending again rather than lose it.
        attempt('XCLAIM', source, group, consumer, 0, entry, 'RETRYCOUNT', 1, 'FORCE', 'JUSTID')
      end
      answer[#answer + 1] = position
      answer[#answer + 1] = failure
    elseif not ours then
      answer[1] = answer[1] + 1
    elseif input then
      last = last + 1
      call('ZADD', finished, last, input)
      answer[2] = answer[2] + (repeated and outputs > 0 and 1 or 0)
    end
    position = position + 1
  end
end
if within > 0 then
  call('ZREMRANGEBYRANK', finished, 0, -within - 1)
end
return answer
