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

-- Numbers are written by the faster of the two formats where it is wide enough.
local INTEGER = string.format('%d', MOST) == '9007199254740991' and '%d' or '%.0f'
local function int(n) return n == 0 and '0' or string.format(INTEGER, n) end

local clock = redis.call('TIME')
local wall = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

-- try runs a command: nil where its key holds something else than what the command is for, which somebody put there.
local function try(...)
	local v = redis.pcall(...)
	if type(v) ~= 'table' or not v.err then
		return v
	end
	for _, what in ipairs({ 'WRONGTYPE', 'not an integer', 'would overflow' }) do
		if string.find(v.err, what, 1, true) then
			return nil
		end
	end
	error(v)
end

-- get is the text under a name; false where there is none, nil where it is no text.
local function get(name) return try('GET', base .. name) end

-- A fence is about the time of its claim. One that is a day ahead of the clock is no claim's, or the clock is wrong.
local function whole(n) return n and n % 1 == 0 and n >= 0 and n < MOST end
local function plausible(n) return whole(n) and n <= wall + ahead + DAY end

-- Time never goes back: the last fence is the time of the last claim, or later. unread names a key of the namespace that
-- cannot be read: nothing is claimed then, and what ends a call goes on.
local last, unread = get('fence'), nil
if last == false then
	last = 0
elseif not (last and plausible(tonumber(last))) then
	last, unread = 0, 'fence'
else
	last = tonumber(last)
end
local now = math.max(wall + ahead, last)

-- The counts of limits. One that cannot be read ends what wants to count: it is no zero.
local function tally(command, name, ...)
	local v = try(command, name, ...)
	if v == nil then
		error({ err = 'DAMAGED ' .. name })
	end
	return v
end
local function uncounted(why) return string.match(type(why) == 'table' and why.err or tostring(why), 'DAMAGED (%S+)') end
local function number(name, v)
	v = tonumber(v or 0)
	if not v or v ~= v or math.abs(v) > 2 * MOST then
		error({ err = 'DAMAGED ' .. name })
	end
	return v
end

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
		local raw, s = get('r:' .. name), false
		if raw ~= false then
			local sum, text = string.match(raw or '', '^oo1 (%x+)\n(.*)$')
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
	local raw = get('k:' .. key)
	if raw == false then
		return nil
	end
	local fence, print = string.match(raw or '', '^(%d+) (%S*)$')
	fence = tonumber(fence)
	if not whole(fence) then
		return 0, nil
	end
	return fence, print
end

local function account(s) return s.tenant .. ':' .. s.agent end
local function hours(s) return base .. 'h:' .. account(s) end
local function days(s, day) return base .. 'd:' .. int(day) .. ':' .. account(s) end

-- refund gives back what counts as it is read; what does not, never stands in the way of an outcome.
local function refund(s, call, spend)
	local minute = int(s.minute)
	if call and try('HEXISTS', hours(s), minute) == 1 then
		try('HINCRBY', hours(s), minute, -1)
		try('HINCRBY', hours(s), 'sum', -1)
	end
	local day = days(s, s.day)
	if redis.call('EXISTS', day) == 1 then
		try('HINCRBY', day, 'spend', int(0 - spend))
		if call then
			try('HINCRBY', day, 't:' .. s.tool, -1)
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

-- conclude ends a call, never before its claim, wherever the clock stands.
local function conclude(s, outcome, keep)
	local at = math.max(now, s.claimed, s.sent)
	settle(s, outcome)
	s.outcome, s.ended = outcome, at
	if outcome == UNKNOWN and s.effect ~= READ then
		s.expires = s.unknownfor > 0 and at + s.unknownfor or 0
	elseif outcome == NOTSENT then
		release(s, s.generation, at + DAY)
	elseif keep <= 0 or outcome == UNKNOWN then
		release(s, 0, at)
	else
		s.expires = at + keep
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

-- write writes a call; a new one only where its fence is not taken, and says whether it could.
local function write(s, new)
	local text, ms = encode(s), lives(s)
	local raw, name = 'oo1 ' .. checksum(text) .. '\n' .. text, base .. 'r:' .. int(s.fence)
	if not new then
		if ms then
			redis.call('SET', name, raw, 'PX', int(ms))
		else
			redis.call('SET', name, raw)
		end
	elseif ms and not redis.call('SET', name, raw, 'PX', int(ms), 'NX') or not ms and not redis.call('SET', name, raw, 'NX') then
		return false
	end
	s.text = text
	loaded[int(s.fence)] = s
	return true, ms
end

-- list keeps the sets of open calls. A set that something else stands in the place of says so with the next beat.
local function list(s)
	local fence = int(s.fence)
	if not open(s) or s.keys == '' then
		try('ZREM', base .. 'open', fence)
		if s.was ~= RUNNING then
			try('ZREM', base .. 'unknown', fence)
		end
		return
	end
	try('ZADD', base .. 'open', int(s.claimed), fence)
	if s.outcome == UNKNOWN then
		s.was = UNKNOWN
		try('ZADD', base .. 'unknown', int(s.claimed), fence)
	end
end

-- publish tells a word where all sidecars of the namespace listen, also of the calls of one agent that stand apart.
local function publish(word)
	local home, agent = string.match(base, '^(.*{[^|}]*)|([^}]*)}:$')
	if home then
		redis.pcall('PUBLISH', home .. '}:ended', agent .. ' ' .. word)
	else
		redis.pcall('PUBLISH', base .. 'ended', word)
	end
end

-- tell wakes who waits for a call, and says whether anybody does. It is a hint: that it fails changes nothing.
local function tell(s)
	local fence = int(s.fence)
	if redis.call('DEL', base .. 'w:' .. fence) == 0 then
		return false
	end
	publish(fence)
	return true
end

-- keep writes a call that has changed its state. Keys that belong to another call by now stay that one's.
local function keep(s)
	local _, ms = write(s)
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

-- bump remembers a fence. That of a key which is far ahead is its own.
local function bump(fence)
	if fence > last and not unread and plausible(fence) then
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
	elseif not print or not plausible(fence) and not load(fence) then
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
		return get('b:' .. int(s.fence)) or false
	end
	return false
end

-- count is the running sum of the hour, after what is too old has left it.
local function count(name, minute)
	local h = tally('HMGET', name, 'sum', 'low')
	local sum, low, first = number(name, h[1]), number(name, h[2]), minute - BUCKETS + 1
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
	for _, calls in ipairs(tally('HMGET', name, unpack(old))) do
		sum = sum - number(name, calls)
	end
	redis.call('HDEL', name, unpack(old))
	redis.call('HSET', name, 'sum', int(sum), 'low', int(first))
	return sum
end

local function chargehour(s, counted)
	local name, minute = hours(s), math.floor(now / MINUTE)
	if s.minute <= minute - BUCKETS then
		return
	elseif not counted then
		count(name, minute)
	end
	if tally('HINCRBY', name, int(s.minute), 1) == 1 then
		redis.call('HSETNX', name, 'low', int(minute - BUCKETS + 1))
		redis.call('PEXPIRE', name, int(2 * HOUR / 1000))
	end
	tally('HINCRBY', name, 'sum', 1)
end

-- charge counts a reservation in the minute and on the day that it names, as far as those still count. The first of a
-- minute, and the first of a tool on a day, keep the counts alive for those that follow. counted: the hour is in order.
local function charge(s, counted)
	if s.day >= math.floor(now / DAY) then
		local day = days(s, s.day)
		local spend = s.cost > 0 and number(day, tally('HGET', day, 'spend'))
		if tally('HINCRBY', day, 't:' .. s.tool, 1) == 1 then
			redis.call('PEXPIRE', day, int(2 * DAY / 1000))
		end
		if spend then
			redis.call('HSET', day, 'spend', int(math.min(spend + s.cost, MOST)))
		end
	end
	local ok, why = pcall(chargehour, s, counted)
	if not ok then
		refund({ tenant = s.tenant, agent = s.agent, tool = s.tool, minute = -1, day = s.day }, true, s.cost)
		error(why)
	end
end
