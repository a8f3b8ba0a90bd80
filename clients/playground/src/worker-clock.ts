// Runs before the SDK's worker: SQLite asks this realm's clock when it stamps a change.
import { setUpClock } from './clock';

const { phone, ahead } = JSON.parse(self.name) as { phone: string; ahead: number };
setUpClock(phone, ahead);
