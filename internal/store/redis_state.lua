-- Every script of claims begins with this: what dedup/state.go says of one call, and how calls are kept.
--
-- A call is a record under its fence, r:FENCE, and a pointer to it, "FENCE PRINT", under each of its keys, k:KEY. Its
-- answer's body is b:FENCE. A record is one version, a checksum, and lines; one that does not hold is an unknown call.
-- Times and durations are microseconds. Integers stay below 2^53, where Lua counts exactly.
local base, ahead, instance = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local RUNNING, DONE, FAILED, NOTSENT, UNKNOWN = 0, 1, 2, 3, 4
local READ, IDEMPOTENT = 2, 1
local MINUTE, HOUR, DAY = 60000000, 3600000000, 86400000000
local BUCKETS = 61
local MOST = 9007199254740991
local GRACE = 600000 -- ms that an ended record stays beyond its window, so that a repeated end is recognised
local NUMBERS = 16 -- the first fields; the others are text without line breaks
local FIELDS = {
	'outcome', 'held', 'fence', 'generation', 'attempt', 'effect', 'claimed', 'sent', 'ended', 'expires', 'timeout', 'unknownfor',
	'cost', 'minute', 'day', 'settled',
	'nonce', 'origin', 'tenant', 'agent', 'tool', 'holder', 'request', 'refusal', 'moved', 'shadow', 'answer', 'keys',
}

local function int(n) return n == 0 and '0' or string.format('%.0f', n) end

-- Time never goes back: the last fence is the time of the last claim, or later.
local clock = redis.call('TIME')
local wall = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local last = tonumber(redis.call('GET', base .. 'fence') or 0)
local now = math.max(wall + ahead, last)

local function encode(s)
	local lines = {}
	for i = 1, NUMBERS do
		lines[i] = int(s[FIELDS[i]])
	end
	for i = NUMBERS + 1, #FIELDS do
		lines[i] = s[FIELDS[i]]
	end
	return table.concat(lines, '\n')
end

local function decode(text)
	local s, i = { text = text }, 0
	for v in string.gmatch(text .. '\n', '([^\n]*)\n') do
		i = i + 1
		if i <= NUMBERS then
			v = tonumber(v)
		end
		if not v or not FIELDS[i] then
			return nil
		end
		s[FIELDS[i]] = v
	end
	return i == #FIELDS and s or nil
end

local function checksum(text) return string.sub(redis.sha1hex(text), 1, 16) end

local function blank(fence)
	local s = { fence = fence }
	for i, name in ipairs(FIELDS) do
		s[name] = s[name] or (i <= NUMBERS and 0 or '')
	end
	return s
end

-- What cannot be read may have run.
local function damaged(fence)
	local s = blank(fence)
	s.outcome, s.held, s.attempt, s.damaged = UNKNOWN, 1, 1, true
	return s
end

local loaded = {}

local function load(fence)
	local name = int(fence)
	if loaded[name] == nil then
		local raw, s = redis.call('GET', base .. 'r:' .. name), false
		if raw then
			local sum, text = string.match(raw, '^oo1 (%x+)\n(.*)$')
			s = sum and sum == checksum(text) and decode(text) or nil
			if not s or s.fence ~= fence then
				s = damaged(fence)
			end
			s.damaged = s.damaged or s.holder == 'damaged'
			s.was = s.outcome
		end
		loaded[name] = s
	end
	return loaded[name]
end

local function live(s) return s.held == 1 and (s.outcome == RUNNING or s.expires == 0 or now < s.expires) end
local function open(s) return s.held == 1 and (s.outcome == RUNNING or s.outcome == UNKNOWN) end

local function eachkey(s, visit)
	for key, print in string.gmatch(s.keys, '([^:,]+):([^:,]*)') do
		visit(key, print)
	end
end

local function pointer(key)
	local raw = redis.call('GET', base .. 'k:' .. key)
	if not raw then
		return nil
	end
	local fence, print = string.match(raw, '^(%d+) (%S*)$')
	return tonumber(fence or 0), print
end

local function account(s) return s.tenant .. ':' .. s.agent end
local function hours(s) return base .. 'h:' .. account(s) end
local function days(s, day) return base .. 'd:' .. int(day) .. ':' .. account(s) end

local function refund(s, call, spend)
	local minute = int(s.minute)
	if call and redis.call('HEXISTS', hours(s), minute) == 1 then
		redis.call('HINCRBY', hours(s), minute, -1)
		redis.call('HINCRBY', hours(s), 'sum', -1)
	end
	local day = days(s, s.day)
	if redis.call('EXISTS', day) == 1 then
		redis.call('HINCRBY', day, 'spend', int(0 - spend))
		if call then
			redis.call('HINCRBY', day, 't:' .. s.tool, -1)
		end
	end
end

-- settle gives back what an outcome gives back, the first time one does.
local function settle(s, outcome)
	if s.settled == 1 or outcome == UNKNOWN or outcome == RUNNING then
		return
	end
	s.settled = 1
	if outcome == FAILED then
		refund(s, false, s.cost)
	elseif outcome == NOTSENT then
		refund(s, true, s.cost)
	end
end

local function release(s, generation, till)
	s.held, s.generation, s.expires = 0, generation, till
	s.effect, s.sent, s.timeout, s.unknownfor = 0, 0, 0, 0
end

local function conclude(s, outcome, keep)
	settle(s, outcome)
	s.outcome, s.ended = outcome, now
	if outcome == UNKNOWN and s.effect ~= READ then
		s.expires = s.unknownfor > 0 and now + s.unknownfor or 0
	elseif outcome == NOTSENT then
		release(s, s.generation, now + DAY)
	elseif keep <= 0 or outcome == UNKNOWN then
		release(s, 0, now)
	else
		s.expires = now + keep
	end
end

-- lives is for how many milliseconds a record is kept; nil: until somebody says how the call ended.
local function lives(s)
	if s.keys == '' then
		return s.outcome == RUNNING and 2 * DAY / 1000 or GRACE
	elseif open(s) then
		return nil
	end
	return math.ceil(math.max(s.expires - now, 0) / 1000) + GRACE
end

local function write(s)
	local text, ms = encode(s), lives(s)
	local raw = 'oo1 ' .. checksum(text) .. '\n' .. text
	if ms then
		redis.call('SET', base .. 'r:' .. int(s.fence), raw, 'PX', int(ms))
	else
		redis.call('SET', base .. 'r:' .. int(s.fence), raw)
	end
	s.text = text
	loaded[int(s.fence)] = s
	return ms
end

local function list(s)
	local fence = int(s.fence)
	if not open(s) or s.keys == '' then
		redis.call('ZREM', base .. 'open', fence)
		if s.was ~= RUNNING then
			redis.call('ZREM', base .. 'unknown', fence)
		end
		return
	end
	redis.call('ZADD', base .. 'open', int(s.claimed), fence)
	if s.outcome == UNKNOWN then
		s.was = UNKNOWN
		redis.call('ZADD', base .. 'unknown', int(s.claimed), fence)
	end
end

-- tell wakes who waits for a call, and says whether anybody does. It is a hint: that it fails changes nothing.
local function tell(s)
	local fence = int(s.fence)
	if redis.call('DEL', base .. 'w:' .. fence) == 0 then
		return false
	end
	redis.pcall('PUBLISH', base .. 'ended', fence)
	return true
end

-- keep writes a call that has changed its state. Keys that belong to another call by now stay that one's.
local function keep(s)
	local ms = write(s)
	list(s)
	eachkey(s, function(key)
		if pointer(key) ~= s.fence then
			return
		elseif not ms then
			redis.call('PERSIST', base .. 'k:' .. key)
		elseif s.held == 1 or s.generation ~= 0 then
			redis.call('PEXPIRE', base .. 'k:' .. key, int(ms))
		else
			redis.call('DEL', base .. 'k:' .. key)
		end
	end)
end

-- recover ends the call of a holder that died or lapsed.
local function recover(s)
	if s.held == 1 and s.outcome == RUNNING then
		conclude(s, UNKNOWN, 0)
		keep(s)
		tell(s)
	end
end

local function lapse(s)
	if s.held == 1 and s.outcome == RUNNING and s.holder ~= instance and redis.call('EXISTS', base .. 'i:' .. s.holder) == 0 then
		recover(s)
	end
end

local function bump(fence)
	if fence > last then
		last = fence
		redis.call('SET', base .. 'fence', int(fence))
	end
end

-- list what cannot be read: an operator may resolve it, and its holder, should it still be there, says how it ended.
local function mend(s, key, print)
	if s.holder ~= 'damaged' then
		s.holder, s.claimed = 'damaged', now
	elseif string.find(s.keys, key, 1, true) then
		return
	end
	s.keys = (s.keys == '' and '' or s.keys .. ',') .. key .. ':' .. print
	keep(s)
end

-- slot is the call under a key with its fingerprint there; nil when there is none.
local function slot(key, expected)
	local fence, print = pointer(key)
	if not fence then
		return nil
	elseif not print then
		fence, print = math.max(now, last + 1), expected or ''
		bump(fence)
		redis.call('SET', base .. 'k:' .. key, int(fence) .. ' ' .. print)
	end
	local s = load(fence) or damaged(fence)
	if s.damaged then
		mend(s, key, print)
	end
	lapse(s)
	return s, print
end

local function body(s)
	if s.held == 1 and s.outcome ~= RUNNING and s.outcome ~= UNKNOWN then
		return redis.call('GET', base .. 'b:' .. int(s.fence))
	end
	return false
end

-- count is the running sum of the hour, after what is too old has left it.
local function count(name, minute)
	local h = redis.call('HMGET', name, 'sum', 'low')
	local sum, low, first = tonumber(h[1] or 0), tonumber(h[2] or 0), minute - BUCKETS + 1
	if sum == 0 and low == 0 or low >= first then
		return sum
	elseif low + BUCKETS <= first then
		redis.call('DEL', name)
		return 0
	end
	local old = {}
	for m = low, first - 1 do
		old[#old + 1] = int(m)
	end
	for _, calls in ipairs(redis.call('HMGET', name, unpack(old))) do
		sum = sum - tonumber(calls or 0)
	end
	redis.call('HDEL', name, unpack(old))
	redis.call('HSET', name, 'sum', int(sum), 'low', int(first))
	return sum
end

-- charge counts a reservation in the minute and on the day that it names, as far as those still count. The first of a
-- minute, and the first of a tool on a day, keep the counts alive for those that follow. counted: the hour is in order.
local function charge(s, counted)
	local name, minute = hours(s), math.floor(now / MINUTE)
	if s.minute > minute - BUCKETS then
		if not counted then
			count(name, minute)
		end
		if redis.call('HINCRBY', name, int(s.minute), 1) == 1 then
			redis.call('HSETNX', name, 'low', int(minute - BUCKETS + 1))
			redis.call('PEXPIRE', name, int(2 * HOUR / 1000))
		end
		redis.call('HINCRBY', name, 'sum', 1)
	end
	if s.day >= math.floor(now / DAY) then
		local day = days(s, s.day)
		if s.cost > 0 then
			local spend = tonumber(redis.call('HGET', day, 'spend') or 0)
			redis.call('HSET', day, 'spend', int(math.min(spend + s.cost, MOST)))
		end
		if redis.call('HINCRBY', day, 't:' .. s.tool, 1) == 1 then
			redis.call('PEXPIRE', day, int(2 * DAY / 1000))
		end
	end
end
