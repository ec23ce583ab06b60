-- Beat: this sidecar lives.
redis.call('SET', base .. 'i:' .. instance, 1, 'PX', ARGV[4])
return { 'beat', instance, int(now), int(wall), redis.call('ZCARD', base .. 'unknown'), redis.call('ZCARD', base .. 'open') }
