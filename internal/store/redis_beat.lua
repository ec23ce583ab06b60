-- Beat: this sidecar lives. It hears how many calls are open, and which key of the namespace cannot be read.
redis.call('SET', base .. 'i:' .. instance, 1, 'PX', ARGV[4])
local sizes = {}
for _, set in ipairs({ 'unknown', 'open' }) do
	local n = try('ZCARD', base .. set)
	if not n then
		unread = set
	end
	sizes[#sizes + 1] = n or 0
end
if not try('HLEN', base .. 'switch') then
	unread = 'switch'
end
return { 'beat', instance, int(now), int(wall), sizes[1], sizes[2], unread and base .. unread or '' }
