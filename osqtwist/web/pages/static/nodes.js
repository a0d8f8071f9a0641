// Words of the target language on offer in the search.
import { completing } from "./complete.js";
import { targetWords } from "./targetwords.js";

completing(document.getElementById("where"), targetWords);
