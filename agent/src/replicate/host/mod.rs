//! The host's side: [`admit`] decides by the operator's [`terms`] (settings, the [`deny`] list, the [`ledger`] of who carried how much for
//! whom, which the [`bookkeeper`] keeps) what is taken in, and [`pull`] fetches it from whoever holds it. [`scrub`] looks at them now and then, and [`withdraw`] takes replicas
//! back, in the order that never leaves a redirect without bytes: what was [`evict`]ed, denied or damaged, and all when the host
//! leaves; the [`outbox`] remembers whom that is yet to be told.

pub mod admit;
pub mod bookkeeper;
pub mod deny;
pub mod evict;
pub mod ledger;
pub mod outbox;
pub mod pull;
pub mod scrub;
pub mod terms;
pub mod withdraw;
