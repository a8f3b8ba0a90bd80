import Foundation
import PowerSync

/// A change that the server did not apply. Its row in `lowtide_rejections` has its content.
public struct LowtideRefusal: Sendable, Equatable {
    public let n: Int64
    public let code: String
    public let message: String
    public let hint: String
}

/// The server did not take a batch. The SDK calls again after a pause; nothing is lost meanwhile.
public struct LowtideUploadError: Error, Sendable, Equatable {
    /// The HTTP status; 0 when nobody is signed in.
    public let status: Int
    /// The stable code of the answer; "" where there is none.
    public let code: String
}

/// What the SDK asks for a token, and what carries local changes to the server.
///
///     let connector = LowtideConnector(endpoint: url) { try await session.accessToken() }
///     try await connector.prepare(database) // before the first write
///     try await database.connect(connector: connector, options: nil)
public actor LowtideConnector: PowerSyncBackendConnectorProtocol {
    private static let maxMutations = 5_000 // in one batch
    private static let maxBytes = 15 * 1024 * 1024 // in one batch
    private static let small = 65_536 // bytes that every proxy lets through: its 413 is then about something else
    private static let maxAttempts = 24 // in one call: halving 5,000 takes 13

    private let endpoint: URL
    private let accessToken: @Sendable () async throws -> String?
    private let refused: @Sendable ([LowtideRefusal]) -> Void
    private let session: URLSession
    private var token: String?
    private var most = LowtideConnector.maxMutations // transactions in the next batch
    private var spoiltFirst: Int64 = 0 // a transaction that the server could not read
    private var spoiltTimes = 0 // and how often

    /// - Parameters:
    ///   - accessToken: The user's token, or nil when nobody is signed in. It throws when the network fails:
    ///     that signs nobody out.
    ///   - refused: Hears at once of changes that the server refused.
    public init(
        endpoint: URL,
        session: URLSession = .shared,
        refused: @escaping @Sendable ([LowtideRefusal]) -> Void = { _ in },
        accessToken: @escaping @Sendable () async throws -> String?
    ) {
        self.endpoint = endpoint
        self.session = session
        self.refused = refused
        self.accessToken = accessToken
    }

    /// Notes from now on when each change is made. Call it before the first write.
    public func prepare(_ database: any PowerSyncDatabaseProtocol) async throws {
        for sql in Sql.setup {
            try await database.execute(sql: sql, parameters: [])
        }
    }

    public func fetchCredentials() async throws -> PowerSyncCredentials? {
        token = try await accessToken()
        return token.map { PowerSyncCredentials(endpoint: endpoint.absoluteString, token: $0) }
    }

    /// Called by the SDK while there is something to upload. Throws to be called again after a pause.
    public func uploadData(database: any PowerSyncDatabaseProtocol) async throws {
        var gap = false // numbers before this batch were thrown away on this device, by signing out for example
        var signedInAgain = false
        for _ in 0 ..< Self.maxAttempts {
            guard let batch = try await nextBatch(database, gap: gap) else { return }
            let answer = try await post(batch.body)
            if answer.status == 200, answer.last >= batch.last {
                try await batch.transaction.complete() // only now do the changes leave the queue
                most = min(Self.maxMutations, most * 2)
                if !answer.refusals.isEmpty { refused(answer.refusals) }
                return
            }
            switch (answer.status, answer.code) {
            case (401, _) where !signedInAgain:
                _ = try await fetchCredentials()
                signedInAgain = true
            case (409, "batch_gap") where !gap:
                gap = true
            case (409, "batch_repeated"):
                // This database was copied or put back: its numbers have meant something else before. What
                // it held then may have been uploaded by the other, and is not sent again.
                try await forget(database, through: answer.known)
                try await database.execute(sql: Sql.lineage, parameters: [])
            // A page of a portal or a proxy says nothing about what was sent; a proxy's bound of size does.
            case (413, _) where !answer.code.isEmpty || batch.body.count > Self.small,
                 (400, _) where !answer.code.isEmpty,
                 (422, _) where !answer.code.isEmpty:
                if batch.count > 1 {
                    most = batch.count / 2 // find the one that is beyond the server
                } else if times(batch.first) < 2 {
                    spoiltTimes = times(batch.first) + 1
                    spoiltFirst = batch.first
                } else {
                    throw LowtideUploadError(status: answer.status, code: answer.code)
                }
            default:
                throw LowtideUploadError(status: answer.status, code: answer.code)
            }
        }
        throw LowtideUploadError(status: 0, code: "upload_does_not_get_through")
    }

    private struct Batch {
        let body: Data
        let first: Int64
        let last: Int64
        let count: Int
        let transaction: any CrudTransaction
    }

    private struct Answer {
        let status: Int
        let code: String
        let last: Int64
        let known: Int64
        let refusals: [LowtideRefusal]
    }

    /// As many whole transactions as go into one request, in order. Sending them twice is harmless.
    private func nextBatch(_ database: any PowerSyncDatabaseProtocol, gap: Bool) async throws -> Batch? {
        var transactions: [String] = []
        var mutations = 0
        var bytes = 0
        var first: Int64 = 0
        var last: (any CrudTransaction)?
        var lastNumber: Int64 = 0
        for try await transaction in database.getCrudTransactions() {
            guard let begin = transaction.crud.first?.clientId, let end = transaction.crud.last?.clientId else {
                continue
            }
            let count = transaction.crud.count
            var text = try await encoded(database, begin, end)
            var size = text.utf8.count
            if size > Self.maxBytes || count > Self.maxMutations || times(begin) > 1 {
                text = "{\"oversized\":{\"n\":\(end),\"count\":\(count),\"bytes\":\(size)}}"
                size = text.utf8.count
            }
            mutations += count
            bytes += size
            let full = mutations > Self.maxMutations || bytes > Self.maxBytes || transactions.count >= most
            if full, !transactions.isEmpty { break }
            transactions.append(text)
            if first == 0 { first = begin }
            (last, lastNumber) = (transaction, end)
        }
        guard let last else { return nil }
        let members = try await database.get(sql: Sql.identity, parameters: []) { try $0.getString(index: 0) }
        let body = "{\(members)\(gap ? ",\"gap\":true" : ""),\"transactions\":[\(transactions.joined(separator: ","))]}"
        return Batch(
            body: Data(body.utf8), first: first, last: lastNumber, count: transactions.count, transaction: last
        )
    }

    private func encoded(_ database: any PowerSyncDatabaseProtocol, _ first: Int64, _ last: Int64) async throws -> String {
        let sql = times(first) == 0 ? Sql.mutations : Sql.unreadable
        let found = try await database.getAll(sql: sql, parameters: [first, last]) { try $0.getString(index: 0) }
        return "{\"mutations\":[\(found.joined(separator: ","))]}"
    }

    private func forget(_ database: any PowerSyncDatabaseProtocol, through known: Int64) async throws {
        var applied: (any CrudTransaction)?
        for try await transaction in database.getCrudTransactions() {
            guard let end = transaction.crud.last?.clientId, end <= known else { break }
            applied = transaction
        }
        try await applied?.complete()
    }

    private func times(_ first: Int64) -> Int {
        spoiltFirst == first ? spoiltTimes : 0
    }

    private func post(_ body: Data) async throws -> Answer {
        if token == nil { _ = try await fetchCredentials() }
        guard let token else { throw LowtideUploadError(status: 0, code: "nobody_is_signed_in") }
        var request = URLRequest(url: endpoint.appendingPathComponent("v1/sync/batches"), timeoutInterval: 60)
        request.httpMethod = "POST"
        request.setValue("application/json", forHTTPHeaderField: "Content-Type")
        request.setValue("Token \(token)", forHTTPHeaderField: "Authorization")
        request.httpBody = body
        let (data, response) = try await session.data(for: request)
        let told = (try? JSONSerialization.jsonObject(with: data)) as? [String: Any] ?? [:]
        let results = told["results"] as? [[String: Any]] ?? []
        return Answer(
            status: (response as? HTTPURLResponse)?.statusCode ?? 0,
            code: told["code"] as? String ?? "",
            last: (told["last"] as? NSNumber)?.int64Value ?? 0,
            known: (told["known"] as? NSNumber)?.int64Value ?? 0,
            refusals: results.filter { $0["status"] as? String == "refused" }.map { result in
                LowtideRefusal(
                    n: (result["n"] as? NSNumber)?.int64Value ?? 0,
                    code: result["code"] as? String ?? "",
                    message: result["message"] as? String ?? "",
                    hint: result["hint"] as? String ?? ""
                )
            }
        )
    }

    private enum Sql {
        static let setup = [
            #"""
            @setup_stamp@
            """#,
            #"""
            @setup_upload@
            """#,
            #"""
            @setup_insert@
            """#,
            #"""
            @setup_delete@
            """#,
        ]
        static let identity = #"""
            @identity@
            """#
        static let mutations = #"""
            @mutations@
            """#
        static let unreadable = #"""
            @unreadable@
            """#
        static let lineage = #"""
            @lineage@
            """#
    }
}
