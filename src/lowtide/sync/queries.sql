-- The sync engine's statements.

-- name: insert_head
INSERT INTO head (one, group_no, epoch, last_bucket) VALUES (1, 0, $1, 0) ON CONFLICT (one) DO NOTHING

-- name: lock_head
SELECT group_no, epoch, last_bucket, watched FROM head WHERE one = 1
-- postgres
SELECT group_no, epoch, last_bucket, watched FROM head WHERE one = 1 FOR UPDATE

-- name: watch
UPDATE head SET watched = $1 WHERE one = 1

-- name: read_head
SELECT group_no, epoch FROM head WHERE one = 1

-- name: set_head
UPDATE head SET group_no = $1, last_bucket = $2 WHERE one = 1

-- name: begin_epoch
UPDATE head SET epoch = $1, group_no = group_no + $2 WHERE one = 1

-- name: last_commit
SELECT max(at) FROM head_log

-- name: insert_head_log
INSERT INTO head_log (group_no, at, topics) VALUES ($1, $2, $3)

-- Both at once, for PostgreSQL, where a statement is a round trip.
-- name: move_head
WITH moved AS (UPDATE head SET group_no = $1, last_bucket = $4 WHERE one = 1)
INSERT INTO head_log (group_no, at, topics) VALUES ($1, $2, $3)

-- name: topics_since
SELECT group_no, topics FROM head_log WHERE group_no > $1 ORDER BY group_no LIMIT $2

-- In the order of the groups, which the plus keeps: what is old is few, because it goes.
-- name: first_group_since
SELECT group_no FROM head_log WHERE +at >= $1 AND +at <= $2 ORDER BY group_no LIMIT 1

-- name: group_before
SELECT max(group_no) FROM head_log WHERE at < $1 AND group_no < $2

-- name: trim_head_log
DELETE FROM head_log WHERE group_no IN (
SELECT group_no FROM head_log WHERE group_no < $1 ORDER BY group_no LIMIT $2) RETURNING group_no

-- name: records
SELECT r.space, r.model, r.id, r.data, r.stamps, r.deleted, r.op, r.created
FROM json_each($1) j JOIN record r
ON r.space = json_extract(j.value, '$[0]') AND r.model = json_extract(j.value, '$[1]')
AND r.id = json_extract(j.value, '$[2]')
-- postgres
SELECT r.space, r.model, r.id, r.data, r.stamps, r.deleted, r.op, r.created
FROM jsonb_array_elements($1::jsonb) j JOIN record r
ON r.space = j->>0 AND r.model = j->>1 AND r.id = j->>2

-- What a group begins with: the records that it names, and those that grant keys to its authors, which have
-- the name of an index.
-- name: group_records
SELECT i.space, i.name, i.value, r.id, r.data, '' AS stamps, 0 AS deleted, 0 AS op, 0 AS created
FROM json_each($2) j JOIN record_index i
ON i.space = json_extract(j.value, '$[0]') AND i.name = json_extract(j.value, '$[1]')
AND i.value = json_extract(j.value, '$[2]')
JOIN record r ON r.space = i.space AND r.model = json_extract(j.value, '$[3]') AND r.id = i.id
UNION ALL
SELECT r.space, '', r.model, r.id, r.data, r.stamps, r.deleted, r.op, r.created
FROM json_each($1) j JOIN record r
ON r.space = json_extract(j.value, '$[0]') AND r.model = json_extract(j.value, '$[1]')
AND r.id = json_extract(j.value, '$[2]')
-- postgres
SELECT i.space, i.name, i.value, r.id, r.data, '' AS stamps, 0::smallint AS deleted, 0::bigint AS op,
0::bigint AS created
FROM jsonb_array_elements($2::jsonb) j JOIN record_index i
ON i.space = j->>0 AND i.name = j->>1 AND i.value = j->>2
JOIN record r ON r.space = i.space AND r.model = j->>3 AND r.id = i.id
UNION ALL
SELECT r.space, '', r.model, r.id, r.data, r.stamps, r.deleted, r.op, r.created
FROM jsonb_array_elements($1::jsonb) j JOIN record r
ON r.space = j->>0 AND r.model = j->>1 AND r.id = j->>2

-- name: record
SELECT data, stamps, deleted, op, created, updated FROM record WHERE space = $1 AND model = $2 AND id = $3

-- name: records_of
SELECT id, data, op, created, updated FROM record
WHERE space = $1 AND model = $2 AND id > $3 AND deleted = 0 ORDER BY id LIMIT $4

-- name: spaces_of
SELECT DISTINCT space FROM record WHERE model = $1 ORDER BY space

-- name: records_to_renew
SELECT id, data, stamps, deleted, op, created FROM record
WHERE space = $1 AND model = $2 AND id > $3 ORDER BY id LIMIT $4

-- name: upsert_record
INSERT INTO record (space, model, id, data, stamps, deleted, op, created, updated)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (space, model, id) DO UPDATE SET data = excluded.data, stamps = excluded.stamps,
deleted = excluded.deleted, op = excluded.op, created = excluded.created, updated = excluded.updated

-- name: index_holders
SELECT i.space, i.name, i.value, i.id
FROM json_each($1) j JOIN record_index i
ON i.space = json_extract(j.value, '$[0]') AND i.name = json_extract(j.value, '$[1]')
AND i.value = json_extract(j.value, '$[2]')
-- postgres
SELECT i.space, i.name, i.value, i.id
FROM jsonb_array_elements($1::jsonb) j JOIN record_index i
ON i.space = j->>0 AND i.name = j->>1 AND i.value = j->>2

-- name: indexed_records
SELECT i.space, i.name, i.value, r.id, r.data
FROM json_each($1) j JOIN record_index i
ON i.space = json_extract(j.value, '$[0]') AND i.name = json_extract(j.value, '$[1]')
AND i.value = json_extract(j.value, '$[2]')
JOIN record r ON r.space = i.space AND r.model = json_extract(j.value, '$[3]') AND r.id = i.id
-- postgres
SELECT i.space, i.name, i.value, r.id, r.data
FROM jsonb_array_elements($1::jsonb) j JOIN record_index i
ON i.space = j->>0 AND i.name = j->>1 AND i.value = j->>2
JOIN record r ON r.space = i.space AND r.model = j->>3 AND r.id = i.id

-- name: insert_index
INSERT INTO record_index (space, name, value, id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING

-- name: delete_index
DELETE FROM record_index WHERE space = $1 AND name = $2 AND value = $3 AND id = $4

-- name: buckets_by_name
SELECT b.name, b.id, b.last, b.live, b.floor FROM json_each($1) j JOIN bucket b ON b.name = j.value
-- postgres
SELECT b.name, b.id, b.last, b.live, b.floor
FROM jsonb_array_elements_text($1::jsonb) j(name) JOIN bucket b ON b.name = j.name

-- name: insert_bucket
INSERT INTO bucket (id, space, name, last, live, floor) VALUES ($1, $2, $3, 0, 0, 0)

-- name: update_bucket
UPDATE bucket SET last = $2, live = live + $3 WHERE id = $1
-- postgres
WITH kept AS (INSERT INTO bucket_history (bucket, op) VALUES ($1, $2))
UPDATE bucket SET last = $2, live = live + $3 WHERE id = $1

-- name: upsert_entry
INSERT INTO bucket_entry (bucket, op, model, id, removed) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (bucket, model, id) DO UPDATE SET op = excluded.op, removed = excluded.removed

-- Which of these (bucket, record) are there.
-- name: live_entries
SELECT b.name, e.id FROM json_each($2) j JOIN bucket b ON b.name = json_extract(j.value, '$[0]')
JOIN bucket_entry e ON e.bucket = b.id AND e.model = $1 AND e.id = json_extract(j.value, '$[1]')
WHERE e.removed = 0
-- postgres
SELECT b.name, e.id FROM jsonb_array_elements($2::jsonb) j JOIN bucket b ON b.name = j->>0
JOIN bucket_entry e ON e.bucket = b.id AND e.model = $1 AND e.id = j->>1 WHERE e.removed = 0

-- name: insert_history
INSERT INTO bucket_history (bucket, op) VALUES ($1, $2)

-- name: history_at
SELECT max(op) FROM bucket_history WHERE bucket = $1 AND op <= $2

-- A look-up for each entry, and no join: for a space that is newer than its statistics PostgreSQL expects
-- one record, and would compare every entry with every record of the space.
-- name: page
SELECT e.op, e.model, e.id, e.removed, CASE e.removed WHEN 0 THEN
(SELECT r.data FROM record r WHERE r.space = $1 AND r.model = e.model AND r.id = e.id) END
FROM bucket_entry e WHERE e.bucket = $2 AND e.op > $3 ORDER BY e.op LIMIT $4

-- name: bucket_last
SELECT last, floor FROM bucket WHERE id = $1

-- name: device
SELECT last_n, answered_group, request, request_group, generation, gaps
FROM device WHERE space = $1 AND user_id = $2 AND client_id = $3

-- name: devices_for_write
SELECT d.space, d.user_id, d.client_id, d.answers, d.last_n, d.answered_group, d.request, d.request_group,
d.generation, d.gaps
FROM json_each($1) j JOIN device d ON d.space = json_extract(j.value, '$[0]')
AND d.user_id = json_extract(j.value, '$[1]') AND d.client_id = json_extract(j.value, '$[2]')
-- postgres
SELECT d.space, d.user_id, d.client_id, d.answers, d.last_n, d.answered_group, d.request, d.request_group,
d.generation, d.gaps
FROM jsonb_array_elements($1::jsonb) j
JOIN device d ON d.space = j->>0 AND d.user_id = j->>1 AND d.client_id = j->>2
ORDER BY d.space, d.user_id, d.client_id FOR UPDATE OF d

-- name: insert_device
INSERT INTO device (space, user_id, client_id, last_n, answers, answered_group, request,
request_group, generation, gaps, uploaded_at, seen_at, seen_group)
VALUES ($1, $2, $3, -1, '', 0, NULL, 0, 0, 0, 0, $4, 0) ON CONFLICT DO NOTHING

-- name: upsert_answer
INSERT INTO device (space, user_id, client_id, last_n, answers, answered_group, request,
request_group, generation, gaps, uploaded_at, seen_at, seen_group)
VALUES ($1, $2, $3, $4, $5, $6, NULL, 0, 0, $7, $8, $8, 0)
ON CONFLICT (space, user_id, client_id) DO UPDATE SET last_n = excluded.last_n, answers = excluded.answers,
answered_group = excluded.answered_group, gaps = excluded.gaps, uploaded_at = excluded.uploaded_at

-- name: set_request
UPDATE device SET request = $4, request_group = $5 WHERE space = $1 AND user_id = $2 AND client_id = $3

-- name: set_generation
UPDATE device SET generation = generation + 1 WHERE space = $1 AND user_id = $2 AND client_id = $3

-- name: set_seen
UPDATE device SET seen_at = $4, seen_group = $5 WHERE space = $1 AND user_id = $2 AND client_id = $3

-- name: device_state
SELECT last_n, answered_group, request, generation, gaps, uploaded_at, seen_at, seen_group
FROM device WHERE space = $1 AND user_id = $2 AND client_id = $3

-- name: devices
SELECT user_id, client_id, last_n, uploaded_at, seen_at, seen_group, generation, gaps
FROM device WHERE space = $1 AND (user_id, client_id) > ($2, $3) ORDER BY user_id, client_id LIMIT $4

-- name: insert_loss
INSERT INTO journal (id, space, model, record, field, lost, lost_by, lost_at, won, won_by, won_at, reason, at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)

-- name: losses
SELECT id, model, record, field, lost, lost_by, lost_at, won, won_by, won_at, reason, at, restored_at
FROM journal WHERE space = $1 AND id < $2 ORDER BY id DESC LIMIT $3

-- name: losses_of_model
SELECT id, model, record, field, lost, lost_by, lost_at, won, won_by, won_at, reason, at, restored_at
FROM journal WHERE space = $1 AND id < $2 AND model = $4 ORDER BY id DESC LIMIT $3

-- name: losses_of_record
SELECT id, model, record, field, lost, lost_by, lost_at, won, won_by, won_at, reason, at, restored_at
FROM journal WHERE space = $1 AND id < $2 AND model = $4 AND record = $5 ORDER BY id DESC LIMIT $3

-- name: loss
SELECT id, model, record, field, lost, lost_by, lost_at, won, won_by, won_at, reason, at, restored_at
FROM journal WHERE space = $1 AND id = $2

-- name: set_restored
UPDATE journal SET restored_at = $3 WHERE space = $1 AND id = $2

-- Ids rise with time: the oldest come first, and the newer ones are not looked at.
-- name: trim_journal
DELETE FROM journal WHERE id IN (
SELECT o.id FROM (SELECT id, at FROM journal ORDER BY id LIMIT $2) o WHERE o.at < $1) RETURNING id

-- name: buckets_to_trim
SELECT b.id FROM bucket b WHERE b.floor < $1 AND b.id > $2
AND (EXISTS (SELECT 1 FROM bucket_entry e WHERE e.bucket = b.id AND e.removed = 1 AND e.op <= $1)
OR 1 < (SELECT count(*) FROM (
SELECT 1 FROM bucket_history h WHERE h.bucket = b.id AND h.op <= $1 LIMIT 2) two))
ORDER BY b.id LIMIT $3

-- name: raise_floor
UPDATE bucket SET floor = $2 WHERE id = $1 AND floor < $2

-- name: trim_removals
DELETE FROM bucket_entry WHERE removed = 1 AND op <= $2 AND (bucket, op) IN (
SELECT e.bucket, e.op FROM json_each($1) j JOIN bucket_entry e ON e.bucket = j.value
WHERE e.removed = 1 AND e.op <= $2 LIMIT $3) RETURNING op
-- postgres
DELETE FROM bucket_entry WHERE removed = 1 AND op <= $2 AND (bucket, op) IN (
SELECT e.bucket, e.op FROM jsonb_array_elements_text($1::jsonb) j(id)
JOIN bucket_entry e ON e.bucket = j.id::bigint
WHERE e.removed = 1 AND e.op <= $2 LIMIT $3) RETURNING op

-- name: trim_history
DELETE FROM bucket_history WHERE (bucket, op) IN (
SELECT h.bucket, h.op FROM json_each($1) j JOIN bucket_history h ON h.bucket = j.value
WHERE h.op < (SELECT max(k.op) FROM bucket_history k WHERE k.bucket = h.bucket AND k.op <= $2)
LIMIT $3) RETURNING op
-- postgres
DELETE FROM bucket_history WHERE (bucket, op) IN (
SELECT h.bucket, h.op FROM jsonb_array_elements_text($1::jsonb) j(id)
JOIN bucket_history h ON h.bucket = j.id::bigint
WHERE h.op < (SELECT max(k.op) FROM bucket_history k WHERE k.bucket = h.bucket AND k.op <= $2)
LIMIT $3) RETURNING op

-- name: trim_tombstones
DELETE FROM record WHERE deleted = 1 AND op <= $1 AND (space, model, id) IN (
SELECT space, model, id FROM record WHERE deleted = 1 AND op <= $1 ORDER BY op LIMIT $2) RETURNING op

-- name: count_rejections
SELECT count(*) FROM bucket_entry WHERE bucket = $1 AND model = 'lowtide_rejections' AND removed = 0

-- name: newest_rejection
SELECT (SELECT r.data FROM record r WHERE r.space = $1 AND r.model = e.model AND r.id = e.id)
FROM bucket_entry e WHERE e.bucket = $2 AND e.model = 'lowtide_rejections' AND e.removed = 0
ORDER BY e.op DESC LIMIT 1

-- name: audit_bucket
SELECT count(*), coalesce(sum(e.op % 1000000007), 0), coalesce(sum(length(r.data)), 0),
coalesce(sum(unicode(substr(r.data, 1 + e.op % length(r.data), 1))
+ 31 * unicode(substr(r.data, 1 + e.op / 7 % length(r.data), 1))), 0)
FROM bucket_entry e JOIN record r ON r.space = $1 AND r.model = e.model AND r.id = e.id
WHERE e.bucket = $2 AND e.removed = 0
-- postgres
SELECT count(*), coalesce(sum(e.op % 1000000007), 0), coalesce(sum(length(e.data)), 0),
coalesce(sum(ascii(substr(e.data, (1 + e.op % length(e.data))::integer, 1))
+ 31 * ascii(substr(e.data, (1 + e.op / 7 % length(e.data))::integer, 1))), 0)
FROM (SELECT e.op, (SELECT r.data FROM record r WHERE r.space = $1 AND r.model = e.model AND r.id = e.id)
FROM bucket_entry e WHERE e.bucket = $2 AND e.removed = 0 OFFSET 0) e(op, data)

-- name: deployed_schema
SELECT snapshot, at FROM deployed_schema WHERE one = 1

-- name: set_deployed_schema
INSERT INTO deployed_schema (one, snapshot, at) VALUES (1, $1, $2)
ON CONFLICT (one) DO UPDATE SET snapshot = excluded.snapshot, at = excluded.at

-- name: begun_schemas
SELECT snapshot FROM begun_schema ORDER BY digest

-- name: begin_schema
INSERT INTO begun_schema (digest, snapshot, no)
VALUES ($1, $2, (SELECT coalesce(max(b.no), 0) + 1 FROM begun_schema b))
ON CONFLICT (digest) DO UPDATE SET no = excluded.no

-- name: latest_begun
SELECT snapshot FROM begun_schema ORDER BY no DESC LIMIT 1

-- name: end_schemas
DELETE FROM begun_schema
