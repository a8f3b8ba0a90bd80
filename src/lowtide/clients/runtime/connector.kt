package @package@

import com.powersync.PowerSyncDatabase
import com.powersync.connectors.PowerSyncBackendConnector
import com.powersync.connectors.PowerSyncCredentials
import com.powersync.db.crud.CrudTransaction
import io.ktor.client.HttpClient
import io.ktor.client.request.header
import io.ktor.client.request.post
import io.ktor.client.request.setBody
import io.ktor.client.statement.bodyAsText
import io.ktor.http.ContentType
import io.ktor.http.contentType
import kotlinx.coroutines.flow.takeWhile
import kotlinx.coroutines.withTimeout
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonArray
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.contentOrNull
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import kotlinx.serialization.json.longOrNull

/** A change that the server did not apply. Its row in `lowtide_rejections` has its content. */
public data class LowtideRefusal(val n: Long, val code: String, val message: String, val hint: String)

/**
 * The server did not take a batch. The SDK calls again after a pause; nothing is lost meanwhile.
 *
 * @property status The HTTP status; 0 when nobody is signed in.
 * @property code The stable code of the answer; "" where there is none.
 */
public class LowtideUploadException(public val status: Int, public val code: String) :
    Exception("the upload was answered $status $code")

/**
 * What the SDK asks for a token, and what carries local changes to the server.
 *
 * ```
 * val connector = LowtideConnector("https://api.example.com", HttpClient()) { session.accessToken() }
 * connector.prepare(database) // before the first write
 * database.connect(connector)
 * ```
 *
 * @param accessToken The user's token, or null when nobody is signed in. It throws when the network fails: that
 * signs nobody out.
 * @param refused Hears at once of changes that the server refused.
 */
public class LowtideConnector(
    private val endpoint: String,
    private val http: HttpClient,
    private val refused: (List<LowtideRefusal>) -> Unit = {},
    private val accessToken: suspend () -> String?,
) : PowerSyncBackendConnector() {
    private var token: String? = null
    private var most = MAX_MUTATIONS // transactions in the next batch
    private var spoiltFirst = 0L // a transaction that the server could not read
    private var spoiltTimes = 0 // and how often

    /** Notes from now on when each change is made. Call it before the first write. */
    public suspend fun prepare(database: PowerSyncDatabase) {
        for (sql in SETUP) database.execute(sql)
    }

    override suspend fun fetchCredentials(): PowerSyncCredentials? {
        token = accessToken()
        return token?.let { PowerSyncCredentials(endpoint = endpoint, token = it, userId = null) }
    }

    /** Called by the SDK while there is something to upload. Throws to be called again after a pause. */
    override suspend fun uploadData(database: PowerSyncDatabase) {
        var gap = false // numbers before this batch were thrown away on this device, by signing out for example
        var signedInAgain = false
        repeat(MAX_ATTEMPTS) {
            val batch = nextBatch(database, gap) ?: return
            val answer = post(batch.body)
            if (answer.status == 200 && answer.last >= batch.last) {
                batch.transaction.complete(null) // only now do the changes leave the queue
                most = minOf(MAX_MUTATIONS, most * 2)
                if (answer.refusals.isNotEmpty()) refused(answer.refusals)
                return
            }
            when {
                answer.status == 401 && !signedInAgain -> {
                    fetchCredentials()
                    signedInAgain = true
                }
                answer.status == 409 && answer.code == "batch_gap" && !gap -> gap = true
                answer.status == 409 && answer.code == "batch_repeated" -> {
                    // This database was copied or put back: its numbers have meant something else before. What
                    // it held then may have been uploaded by the other, and is not sent again.
                    forget(database, answer.known)
                    database.execute(LINEAGE)
                }
                answer.unreadable(batch) && batch.count > 1 -> {
                    most = batch.count / 2 // find the one that is beyond the server
                }
                answer.unreadable(batch) && times(batch.first) < 2 -> {
                    spoiltTimes = times(batch.first) + 1
                    spoiltFirst = batch.first
                }
                else -> throw LowtideUploadException(answer.status, answer.code)
            }
        }
        throw LowtideUploadException(0, "upload_does_not_get_through")
    }

    private class Batch(
        val body: String,
        val first: Long,
        val last: Long,
        val count: Int,
        val transaction: CrudTransaction,
    )

    private class Answer(
        val status: Int,
        val code: String,
        val last: Long,
        val known: Long,
        val refusals: List<LowtideRefusal>,
    ) {
        /** A page of a portal or a proxy says nothing about what was sent; a proxy's bound of size does. */
        fun unreadable(batch: Batch): Boolean =
            (status in listOf(400, 413, 422) && code.isNotEmpty()) || (status == 413 && batch.body.length > SMALL)
    }

    /** As many whole transactions as go into one request, in order. Sending them twice is harmless. */
    private suspend fun nextBatch(database: PowerSyncDatabase, gap: Boolean): Batch? {
        val transactions = mutableListOf<String>()
        var mutations = 0
        var bytes = 0
        var first = 0L
        var last: CrudTransaction? = null
        database.getCrudTransactions().takeWhile { transaction ->
            val begin = transaction.crud.first().clientId.toLong()
            val end = transaction.crud.last().clientId.toLong()
            val count = transaction.crud.size
            var text = encoded(database, begin, end)
            var size = text.encodeToByteArray().size
            if (size > MAX_BYTES || count > MAX_MUTATIONS || times(begin) > 1) {
                text = """{"oversized":{"n":$end,"count":$count,"bytes":$size}}"""
                size = text.length
            }
            mutations += count
            bytes += size
            val full = mutations > MAX_MUTATIONS || bytes > MAX_BYTES || transactions.size >= most
            if (full && transactions.isNotEmpty()) {
                false
            } else {
                transactions += text
                if (first == 0L) first = begin
                last = transaction
                true
            }
        }.collect {}
        val transaction = last ?: return null
        val members = database.get(IDENTITY) { it.getString(0)!! }
        val skipped = if (gap) ""","gap":true""" else ""
        return Batch(
            body = """{$members$skipped,"transactions":[${transactions.joinToString(",")}]}""",
            first = first,
            last = transaction.crud.last().clientId.toLong(),
            count = transactions.size,
            transaction = transaction,
        )
    }

    private suspend fun encoded(database: PowerSyncDatabase, first: Long, last: Long): String {
        val sql = if (times(first) == 0) MUTATIONS else UNREADABLE
        val found = database.getAll(sql, listOf(first, last)) { it.getString(0)!! }
        return """{"mutations":[${found.joinToString(",")}]}"""
    }

    private suspend fun forget(database: PowerSyncDatabase, known: Long) {
        var applied: CrudTransaction? = null
        database.getCrudTransactions().takeWhile { it.crud.last().clientId <= known }.collect { applied = it }
        applied?.complete?.invoke(null)
    }

    private fun times(first: Long): Int = if (spoiltFirst == first) spoiltTimes else 0

    private suspend fun post(body: String): Answer {
        if (token == null) fetchCredentials()
        val signedIn = token ?: throw LowtideUploadException(0, "nobody_is_signed_in")
        val (status, text) =
            withTimeout(DEADLINE_MS) {
                val response =
                    http.post("$endpoint/v1/sync/batches") {
                        header("Authorization", "Token $signedIn")
                        contentType(ContentType.Application.Json)
                        setBody(body)
                    }
                response.status.value to response.bodyAsText()
            }
        val told = runCatching { Json.parseToJsonElement(text).jsonObject }.getOrDefault(JsonObject(emptyMap()))
        val results = (told["results"] as? JsonArray).orEmpty().map { it.jsonObject }
        return Answer(
            status = status,
            code = told.text("code"),
            last = told.number("last"),
            known = told.number("known"),
            refusals =
                results.filter { it.text("status") == "refused" }.map {
                    LowtideRefusal(it.number("n"), it.text("code"), it.text("message"), it.text("hint"))
                },
        )
    }

    private fun JsonObject.text(name: String): String = this[name]?.jsonPrimitive?.contentOrNull ?: ""

    private fun JsonObject.number(name: String): Long = this[name]?.jsonPrimitive?.longOrNull ?: 0

    private companion object {
        const val MAX_MUTATIONS = 5_000 // in one batch
        const val MAX_BYTES = 15 * 1024 * 1024 // in one batch
        const val SMALL = 65_536 // bytes that every proxy lets through: its 413 is then about something else
        const val MAX_ATTEMPTS = 24 // in one call: halving 5,000 takes 13
        const val DEADLINE_MS = 60_000L

        val SETUP =
            listOf(
                """@setup_stamp@""",
                """@setup_upload@""",
                """@setup_insert@""",
                """@setup_delete@""",
            )
        const val IDENTITY = """@identity@"""
        const val MUTATIONS = """@mutations@"""
        const val UNREADABLE = """@unreadable@"""
        const val LINEAGE = """@lineage@"""
    }
}
