import 'dart:convert';

import 'package:http/http.dart' as http;
import 'package:powersync/powersync.dart';

/// A change that the server did not apply. Its row in `lowtide_rejections` has its content.
class LowtideRefusal {
  const LowtideRefusal({required this.n, required this.code, required this.message, required this.hint});

  final int n;
  final String code;
  final String message;
  final String hint;
}

/// The server did not take a batch. The SDK calls again after a pause; nothing is lost meanwhile.
class LowtideUploadException implements Exception {
  const LowtideUploadException(this.status, this.code);

  /// The HTTP status; 0 when nobody is signed in.
  final int status;

  /// The stable code of the answer; '' where there is none.
  final String code;

  @override
  String toString() => 'the upload was answered $status $code';
}

/// What the SDK asks for a token, and what carries local changes to the server.
///
///     final connector = LowtideConnector(
///       endpoint: 'https://api.example.com',
///       accessToken: session.accessToken,
///     );
///     await connector.prepare(database); // before the first write
///     await database.connect(connector: connector);
class LowtideConnector extends PowerSyncBackendConnector {
  /// [accessToken]: the user's token, or null when nobody is signed in. It throws when the network fails:
  /// that signs nobody out. [refused] hears at once of changes that the server refused.
  LowtideConnector({
    required this.endpoint,
    required this.accessToken,
    void Function(List<LowtideRefusal>)? refused,
    http.Client? client,
  })  : _refused = refused ?? ((_) {}),
        _client = client ?? http.Client();

  static const _maxMutations = 5000; // in one batch
  static const _maxBytes = 15 * 1024 * 1024; // in one batch
  static const _small = 65536; // bytes that every proxy lets through: its 413 is then about something else
  static const _maxAttempts = 24; // in one call: halving 5,000 takes 13

  final String endpoint;
  final Future<String?> Function() accessToken;
  final void Function(List<LowtideRefusal>) _refused;
  final http.Client _client;
  String? _token;
  int _most = _maxMutations; // transactions in the next batch
  int _spoiltFirst = 0; // a transaction that the server could not read
  int _spoiltTimes = 0; // and how often

  /// Notes from now on when each change is made. Call it before the first write.
  Future<void> prepare(PowerSyncDatabase database) async {
    for (final sql in _setup) {
      await database.execute(sql);
    }
  }

  @override
  Future<PowerSyncCredentials?> fetchCredentials() async {
    final token = _token = await accessToken();
    return token == null ? null : PowerSyncCredentials(endpoint: endpoint, token: token);
  }

  /// Called by the SDK while there is something to upload. Throws to be called again after a pause.
  @override
  Future<void> uploadData(PowerSyncDatabase database) async {
    var gap = false; // numbers before this batch were thrown away on this device, by signing out for example
    var signedInAgain = false;
    for (var attempt = 0; attempt < _maxAttempts; attempt++) {
      final batch = await _nextBatch(database, gap);
      if (batch == null) return;
      final (status, answer) = await _post(batch.body);
      final code = answer['code'];
      // A page of a portal or a proxy says nothing about what was sent; a proxy's bound of size does.
      final unreadable = (const [400, 413, 422].contains(status) && code is String) ||
          (status == 413 && batch.body.length > _small);
      if (status == 200 && _number(answer, 'last') >= batch.last) {
        await batch.transaction.complete(); // only now do the changes leave the queue
        _most = _most * 2 > _maxMutations ? _maxMutations : _most * 2;
        final refusals = _refusals(answer);
        if (refusals.isNotEmpty) _refused(refusals);
        return;
      }
      if (status == 401 && !signedInAgain) {
        await fetchCredentials();
        signedInAgain = true;
      } else if (status == 409 && code == 'batch_gap' && !gap) {
        gap = true;
      } else if (status == 409 && code == 'batch_repeated') {
        // This database was copied or put back: its numbers have meant something else before. What it held
        // then may have been uploaded by the other, and is not sent again.
        await _forget(database, _number(answer, 'known'));
        await database.execute(_lineage);
      } else if (unreadable && batch.count > 1) {
        _most = batch.count ~/ 2; // find the one that is beyond the server
      } else if (unreadable && _times(batch.first) < 2) {
        _spoiltTimes = _times(batch.first) + 1;
        _spoiltFirst = batch.first;
      } else {
        throw LowtideUploadException(status, '${code ?? ''}');
      }
    }
    throw const LowtideUploadException(0, 'upload_does_not_get_through');
  }

  /// As many whole transactions as go into one request, in order. Sending them twice is harmless.
  Future<_Batch?> _nextBatch(PowerSyncDatabase database, bool gap) async {
    final transactions = <String>[];
    var mutations = 0;
    var bytes = 0;
    var first = 0;
    CrudTransaction? last;
    await for (final transaction in database.getCrudTransactions()) {
      final begin = transaction.crud.first.clientId;
      final end = transaction.crud.last.clientId;
      final count = transaction.crud.length;
      var text = await _encoded(database, begin, end);
      var size = utf8.encode(text).length;
      if (size > _maxBytes || count > _maxMutations || _times(begin) > 1) {
        text = '{"oversized":{"n":$end,"count":$count,"bytes":$size}}';
        size = text.length;
      }
      mutations += count;
      bytes += size;
      final full = mutations > _maxMutations || bytes > _maxBytes || transactions.length >= _most;
      if (full && transactions.isNotEmpty) break;
      transactions.add(text);
      if (first == 0) first = begin;
      last = transaction;
    }
    if (last == null) return null;
    final members = (await database.get(_identity))['members'] as String;
    final skipped = gap ? ',"gap":true' : '';
    return _Batch(
      body: '{$members$skipped,"transactions":[${transactions.join(',')}]}',
      first: first,
      last: last.crud.last.clientId,
      count: transactions.length,
      transaction: last,
    );
  }

  Future<String> _encoded(PowerSyncDatabase database, int first, int last) async {
    final rows = await database.getAll(_times(first) == 0 ? _mutations : _unreadable, [first, last]);
    return '{"mutations":[${rows.map((row) => row['mutation']).join(',')}]}';
  }

  Future<void> _forget(PowerSyncDatabase database, int known) async {
    CrudTransaction? applied;
    await for (final transaction in database.getCrudTransactions()) {
      if (transaction.crud.last.clientId > known) break;
      applied = transaction;
    }
    await applied?.complete();
  }

  int _times(int first) => _spoiltFirst == first ? _spoiltTimes : 0;

  Future<(int, Map<String, dynamic>)> _post(String body) async {
    if (_token == null) await fetchCredentials();
    final token = _token;
    if (token == null) throw const LowtideUploadException(0, 'nobody_is_signed_in');
    final response = await _client
        .post(
          Uri.parse('$endpoint/v1/sync/batches'),
          headers: {'content-type': 'application/json', 'authorization': 'Token $token'},
          body: body,
        )
        .timeout(const Duration(seconds: 60));
    Object? told;
    try {
      told = jsonDecode(response.body);
    } on FormatException {
      told = null; // a proxy's page: the status says enough
    }
    return (response.statusCode, told is Map<String, dynamic> ? told : <String, dynamic>{});
  }

  static int _number(Map<String, dynamic> told, String name) => switch (told[name]) { final int it => it, _ => 0 };

  static List<LowtideRefusal> _refusals(Map<String, dynamic> answer) => [
        for (final result in answer['results'] as List<dynamic>? ?? const <dynamic>[])
          if (result is Map<String, dynamic> && result['status'] == 'refused')
            LowtideRefusal(
              n: _number(result, 'n'),
              code: '${result['code'] ?? ''}',
              message: '${result['message'] ?? ''}',
              hint: '${result['hint'] ?? ''}',
            ),
      ];

  static const _setup = [
    r"""@setup_stamp@""",
    r"""@setup_upload@""",
    r"""@setup_insert@""",
    r"""@setup_delete@""",
  ];
  static const _identity = r"""@identity@""";
  static const _mutations = r"""@mutations@""";
  static const _unreadable = r"""@unreadable@""";
  static const _lineage = r"""@lineage@""";
}

class _Batch {
  const _Batch({
    required this.body,
    required this.first,
    required this.last,
    required this.count,
    required this.transaction,
  });

  final String body;
  final int first;
  final int last;
  final int count;
  final CrudTransaction transaction;
}
