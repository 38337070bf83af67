//! Random conversations of a client and a server.

use proptest::prelude::*;

use crate::script::run;

proptest! {
    #[test]
    fn any_conversation_arrives_whole_and_leaves_no_stream(
        script in prop::collection::vec(any::<[u8; 3]>(), 0..300),
    ) {
        run(&script);
    }
}
