// The worker that holds a phone's database: the SDK's own, in a realm with the phone's clock.
import './worker-clock';
import '@powersync/web/bundled_worker';
