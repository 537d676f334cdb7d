//! A peer that does not keep to the rules: it has a site's key, whose agent is stopped, and says what it likes.

use std::sync::Arc;

use p2pcdn_agent::clock::now_s;
use p2pcdn_agent::gossip::exchange::GOSSIP_PATH;
use p2pcdn_agent::gossip::messages::{Closing, MAX_MESSAGE_BYTES, Message};
use p2pcdn_agent::gossip::{Blob, Observation, Observations, Record};
use p2pcdn_agent::identity::{
    Connector, NodeCertificate, NodeKey, PeerClient, PeerClientError, Signed, Statement, sequence, sign,
    web_client_config,
};
use p2pcdn_core::peer::{PEER_DOCUMENT_PATH, PeerRecord};
use p2pcdn_tests::{Lab, Site};

pub(crate) struct Pretender {
    pub(crate) key: NodeKey,
    client: PeerClient,
}

impl Pretender {
    /// In the place of the site's agent, which has to be stopped.
    pub(crate) fn of(lab: &Lab, site: &Site) -> Self {
        let key = NodeKey::load_or_create(&site.directory().join("state")).unwrap();
        let web = web_client_config(&[lab.directory().join("ca.pem")]).unwrap();
        let client = PeerClient::new(Arc::new(Connector::new(true, web)), NodeCertificate::new(&key).unwrap());
        Self { key, client }
    }

    /// What a site says about itself.
    pub(crate) async fn record_of(lab: &Lab, site: &Site) -> PeerRecord {
        let document = lab.client.get(&site.url(PEER_DOCUMENT_PATH)).await.unwrap();
        serde_json::from_slice::<Signed>(document.body()).unwrap().open().unwrap()
    }

    /// A record signed with the site's key.
    pub(crate) fn record<T: Statement>(&self, statement: &T) -> Blob {
        Record::of(&sign(&self.key, statement).unwrap()).unwrap()
    }

    /// A list of what was seen, as of now; `number` makes it later than an earlier one.
    pub(crate) fn observations(&self, seen: &[(&str, u32, u32, u32)], number: u64) -> Blob {
        let seen = seen.iter().map(|(subject, good, bad, wrong)| Observation {
            subject: (*subject).into(),
            good: *good,
            bad: *bad,
            wrong: *wrong,
        });
        let now_s = now_s();
        self.record(&Observations::of(seen.collect(), sequence::at(now_s) + number * sequence::STEP, now_s))
    }

    /// Gives records to a peer, as the third message of an exchange.
    pub(crate) async fn tell(&self, peer: &PeerRecord, records: Vec<Blob>) -> Result<Message, PeerClientError> {
        let message = Message::Closing(Closing { wants: Vec::new(), records }).encode();
        let answer = self.client.bytes(peer, GOSSIP_PATH, message, MAX_MESSAGE_BYTES).await?;
        Ok(Message::decode(&answer).unwrap())
    }
}
