-- Look: how a call stands that somebody waits for, under whatever fence it goes on.
local s = load(tonumber(ARGV[4]))
for _ = 1, 100 do
	if not s or s.moved == '' then
		break
	end
	s = load(tonumber(s.moved))
end
local function say(word, ...) return { word, ARGV[4], int(now), int(wall), ... } end
if not s then
	return say('absent')
end
lapse(s)
if s.outcome == RUNNING and s.held == 1 then
	redis.call('SET', base .. 'w:' .. int(s.fence), 1, 'PX', 60000)
	return say('running', s.text or encode(s))
end
return say('ended', s.text or encode(s), s.outcome ~= UNKNOWN and get('b:' .. int(s.fence)) or false)
