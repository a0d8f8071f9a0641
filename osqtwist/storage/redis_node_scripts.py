"""What Redis does with nodes at once; the keys are in :mod:`osqtwist.storage.redis_nodes`."""

from __future__ import annotations

from osqtwist.storage.redis_connection import Script

_COUNT_ISSUER_TEXT = """
    local function count(issuer, by)
        if issuer and issuer ~= '' and redis.call('HINCRBY', KEYS[4], issuer, by) < 1 then
            redis.call('HDEL', KEYS[4], issuer)
        end
    end
    """
RECORD = Script(
    _COUNT_ISSUER_TEXT
    + """
    local old = redis.call('HMGET', KEYS[1], 'name', 'host')
    for index = 1, 2 do
        if old[index] and old[index] ~= ARGV[3] and old[index] ~= ARGV[4] then
            redis.call('SREM', KEYS[2] .. old[index], ARGV[1])
        end
    end
    for index = 3, 4 do
        if ARGV[index] ~= '' then redis.call('SADD', KEYS[2] .. ARGV[index], ARGV[1]) end
    end
    redis.call('HSET', KEYS[1], 'record', ARGV[2], 'name', ARGV[3], 'host', ARGV[4])
    if ARGV[5] == '' then redis.call('ZREM', KEYS[3], ARGV[1]) else redis.call('ZADD', KEYS[3], ARGV[5], ARGV[1]) end
    local had = redis.call('HMGET', KEYS[1], 'fingerprint', 'issuer', 'certificate')
    if (had[1] or '') ~= ARGV[6] then
        count(had[2], -1)
        count(ARGV[7], 1)
        redis.call('HDEL', KEYS[1], 'before')
        redis.call('ZREM', KEYS[5], ARGV[1])
        if had[3] and had[3] ~= '' and ARGV[8] ~= '' then
            redis.call('HSET', KEYS[1], 'before', had[3])
            redis.call('ZADD', KEYS[5], ARGV[9], ARGV[1])
        end
        redis.call(
            'HSET', KEYS[1], 'fingerprint', ARGV[6], 'issuer', ARGV[7], 'certificate', ARGV[8], 'shown', ARGV[9]
        )
    end
    return redis.call('HMGET', KEYS[1], 'tags', 'found', 'note', 'former', 'shown', 'before')
    """
)
TAG = Script(
    """
    if redis.call('HEXISTS', KEYS[1], 'record') == 0 then return end
    local tags = {}
    for tag in string.gmatch(redis.call('HGET', KEYS[1], ARGV[1]) or '', '%S+') do tags[tag] = true end
    for index = 3, #ARGV do tags[ARGV[index]] = index <= ARGV[2] + 2 or nil end
    local list = {}
    for tag in pairs(tags) do list[#list + 1] = tag end
    table.sort(list)
    redis.call('HSET', KEYS[1], ARGV[1], table.concat(list, ' '))
    """
)
ANNOTATE = Script(
    "if redis.call('HEXISTS', KEYS[1], 'record') == 1 then redis.call('HSET', KEYS[1], 'note', ARGV[1]) end"
)
_FORGET_TEXT = """
    local old = redis.call('HMGET', KEYS[1], 'name', 'host', 'issuer')
    for index = 1, 2 do
        if old[index] then redis.call('SREM', KEYS[2] .. old[index], ARGV[1]) end
    end
    count(old[3], -1)
    for index = 3, 6 do
        if index ~= 4 then redis.call('ZREM', KEYS[index], ARGV[1]) end
    end
    redis.call('DEL', KEYS[1])
    """
FORGET = Script(
    _COUNT_ISSUER_TEXT
    + """
    for _, former in ipairs(cjson.decode(redis.call('HGET', KEYS[1], 'former') or '[]')) do
        for _, name in pairs({former.node_id, former.name, former.host_identifier}) do
            redis.call('SREM', KEYS[2] .. name, ARGV[1])
        end
    end
    """
    + _FORGET_TEXT
)
# KEYS[1..6] and ARGV[1] are as above, of the one that goes; the other is in KEYS[7] and ARGV[2].
MERGE = Script(
    _COUNT_ISSUER_TEXT
    + """
    if redis.call('HEXISTS', KEYS[7], 'record') == 0 then return end
    local from = redis.call('HMGET', KEYS[1], 'tags', 'note', 'first', 'former')
    local into = redis.call('HMGET', KEYS[7], 'tags', 'note', 'first', 'former')
    local tags, list = {}, {}
    for tag in string.gmatch((from[1] or '') .. ' ' .. (into[1] or ''), '%S+') do
        if not tags[tag] then list[#list + 1] = tag end
        tags[tag] = true
    end
    table.sort(list)
    redis.call('HSET', KEYS[7], 'tags', table.concat(list, ' '))
    local notes = {}
    for _, note in ipairs({into[2] or '', from[2] or ''}) do
        if note ~= '' then notes[#notes + 1] = note end
    end
    redis.call('HSET', KEYS[7], 'note', table.concat(notes, '; '))
    if from[3] and (not into[3] or tonumber(from[3]) < tonumber(into[3])) then
        redis.call('HSET', KEYS[7], 'first', from[3])
    end
    local former = cjson.decode(into[4] or '[]')
    for _, each in ipairs(cjson.decode(from[4] or '[]')) do former[#former + 1] = each end
    former[#former + 1] = cjson.decode(ARGV[3])
    for _, each in ipairs(former) do
        for _, name in pairs({each.node_id, each.name, each.host_identifier}) do
            redis.call('SREM', KEYS[2] .. name, ARGV[1])
            redis.call('SADD', KEYS[2] .. name, ARGV[2])
        end
    end
    redis.call('HSET', KEYS[7], 'former', cjson.encode(former))
    """
    + _FORGET_TEXT
)
SAW = Script(
    """
    for index = 2, #ARGV, 6 do
        local id, at, first, seen = ARGV[index], ARGV[index + 1], ARGV[index + 2], ARGV[index + 3]
        local address, config = ARGV[index + 4], ARGV[index + 5]
        local before = redis.call('ZSCORE', KEYS[1], id)
        if not before or tonumber(before) <= tonumber(at) then
            redis.call('ZADD', KEYS[1], at, id)
            redis.call('HSET', KEYS[2] .. id, 'seen', seen)
            -- Newest first, each with the time it was left; the newest is not left yet.
            local known = redis.call('HGET', KEYS[2] .. id, 'addresses') or ''
            if address ~= '' and string.match(known, '^%S+') ~= address then
                local list, left = {address .. ' ' .. at}, before
                for each, moment in string.gmatch(known, '(%S+) (%S+)') do
                    if each ~= address and #list < tonumber(ARGV[1]) then
                        list[#list + 1] = each .. ' ' .. (left or moment)
                    end
                    left = nil
                end
                redis.call('HSET', KEYS[2] .. id, 'addresses', table.concat(list, ' '))
            end
        end
        if config ~= '' then redis.call('HSET', KEYS[2] .. id, 'config', config) end
        redis.call('HSETNX', KEYS[2] .. id, 'first', first)
    end
    """
)
