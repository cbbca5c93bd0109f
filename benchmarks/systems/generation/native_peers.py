"""Peers in C++: CTranslate2 and llama.cpp. Each is given its own file format, written here from the shared weights without PyTorch."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from systems import THREADS
from systems.generation.works import END_ID, TEMPERATURE, TOP_K, Work, decoder_weights


class CTranslate2:
    """`Generator.generate_batch`, on a model with a made-up vocabulary of as many words."""

    def __init__(self, work: Work, batch: int, precision: str, folder: Path):
        import ctranslate2

        self.new_tokens = work.new_tokens
        self.words = [f"<{number}>" for number in range(work.vocabulary_size)]
        self.words[: END_ID + 1] = ["<unk>", "<pad>", "<s>", "</s>"]
        self._convert(work, folder, None if precision == "f32" else precision)
        compute_type = {"f32": "float32", "int8": "int8"}[precision]
        self.generator = ctranslate2.Generator(str(folder), device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=THREADS)

    def _convert(self, work: Work, folder: Path, quantization: str | None) -> None:
        from ctranslate2.specs import common_spec, transformer_spec

        weights = decoder_weights(work)
        spec = transformer_spec.TransformerDecoderModelSpec.from_config(
            work.num_layers, work.num_heads, pre_norm=True, activation=common_spec.Activation.GELUTanh
        )

        def norm(place, name: str) -> None:
            place.gamma, place.beta = weights[f"{name}.gamma"], weights[f"{name}.beta"]

        def dense(place, name: str) -> None:
            place.weight, place.bias = np.ascontiguousarray(weights[f"{name}.kernel"].T), weights[f"{name}.bias"]

        decoder = spec.decoder
        decoder.scale_embeddings = False
        decoder.embeddings.weight = decoder.projection.weight = weights["embedding"]
        decoder.position_encodings.encodings = weights["positions"]
        norm(decoder.layer_norm, "final_norm")
        for number, layer in enumerate(decoder.layer):
            norm(layer.self_attention.layer_norm, f"{number}.attention_norm")
            dense(layer.self_attention.linear[0], f"{number}.qkv")
            dense(layer.self_attention.linear[1], f"{number}.output")
            norm(layer.ffn.layer_norm, f"{number}.feed_forward_norm")
            dense(layer.ffn.linear_0, f"{number}.widen")
            dense(layer.ffn.linear_1, f"{number}.narrow")
        spec.register_vocabulary(self.words)
        spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = self.words[0], self.words[2], self.words[END_ID]
        spec.validate()
        spec.optimize(quantization=quantization)
        spec.save(str(folder))

    def generate(self, prompts: np.ndarray, strategy: str) -> Sequence[Sequence[int]]:
        results = self.generator.generate_batch(
            [[self.words[number] for number in row] for row in prompts.tolist()],
            max_length=self.new_tokens,
            min_length=self.new_tokens,
            sampling_topk=1 if strategy == "greedy" else TOP_K,
            sampling_temperature=TEMPERATURE,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in results]


class LlamaCpp:
    """llama.cpp through the C functions that llama-cpp-python gives: one sequence a row, logits only for the last token of each."""

    def __init__(self, work: Work, batch: int, precision: str, folder: Path):
        import llama_cpp

        path = folder / "model.gguf"
        _write_gguf(path, work, precision)
        self.note = ""
        # Built by some versions of GCC, its AMX kernels crash on the first prompt (llama.cpp #26954): tried out where that costs nothing.
        if precision == "q8_0" and b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info():
            trial = multiprocessing.get_context("spawn").Process(target=_try_out, args=[path, work])
            trial.start()
            trial.join()
            if trial.exitcode:
                self.note = "this build crashes with AMX and runs without it: slower than llama.cpp can be"
        self._open(path, work, batch, repack=not self.note)

    def _open(self, path: Path, work: Work, batch: int, repack: bool) -> None:
        import llama_cpp

        self.lib, self.work, self.batch = llama_cpp, work, batch
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, None)
        llama_cpp.llama_backend_init()
        how = llama_cpp.llama_model_default_params()
        how.use_extra_bufts = repack
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), how)
        if not self.model:
            raise RuntimeError(f"llama.cpp refuses {path.name}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = batch * work.context_length
        settings.n_seq_max = batch
        settings.n_batch = settings.n_ubatch = max(512, batch * work.prompt_length)
        settings.n_threads = settings.n_threads_batch = THREADS
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.tokens = llama_cpp.llama_batch_init(batch * work.prompt_length, 0, 1)
        self.chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for sampler in (llama_cpp.llama_sampler_init_top_k(TOP_K), llama_cpp.llama_sampler_init_dist(0)):
            llama_cpp.llama_sampler_chain_add(self.chain, sampler)

    def generate(self, prompts: np.ndarray, strategy: str) -> Sequence[Sequence[int]]:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        rows: list[list[int]] = [[] for _ in range(self.batch)]
        news, start = prompts.tolist(), 0
        for _ in range(self.work.new_tokens):
            last = self._decode(news, start)
            start += len(news[0])
            news = [[self._choose(place, strategy)] for place in last]
            for row, new in zip(rows, news, strict=True):
                row += new
        return rows

    def _decode(self, news: list[list[int]], start: int) -> list[int]:
        """Reads some more tokens of each row; returns the place of each row's last one in the batch."""
        batch, last, place = self.tokens, [], 0
        for row, ids in enumerate(news):
            for offset, token in enumerate(ids):
                batch.token[place], batch.pos[place] = token, start + offset
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
                batch.logits[place] = offset == len(ids) - 1
                place += 1
            last.append(place - 1)
        batch.n_tokens = place
        if self.lib.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        return last

    def _choose(self, place: int, strategy: str) -> int:
        if strategy == "greedy":
            logits = self.lib.llama_get_logits_ith(self.context, place)
            return int(np.ctypeslib.as_array(logits, [self.work.vocabulary_size]).argmax())
        return self.lib.llama_sampler_sample(self.chain, self.context, place)


def _try_out(path: Path, work: Work) -> None:
    model = LlamaCpp.__new__(LlamaCpp)
    model._open(path, work, 1, repack=True)
    model._decode([[END_ID] * work.prompt_length], 0)


def _write_gguf(path: Path, work: Work, precision: str) -> None:
    """A GGUF file as llama.cpp's own converter and quantizer write it: `q8_0` for every matrix, f32 for vectors and positions."""
    import gguf

    weights = decoder_weights(work)
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_context_length(work.context_length)
    writer.add_embedding_length(work.embedding_dim)
    writer.add_feed_forward_length(4 * work.embedding_dim)
    writer.add_block_count(work.num_layers)
    writer.add_head_count(work.num_heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(work.vocabulary_size)

    def matrix(name: str, value: np.ndarray) -> None:
        if precision == "q8_0":
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)

    def norm(theirs: str, ours: str) -> None:
        writer.add_tensor(f"{theirs}.weight", weights[f"{ours}.gamma"])
        writer.add_tensor(f"{theirs}.bias", weights[f"{ours}.beta"])

    def dense(theirs: str, ours: str) -> None:
        matrix(f"{theirs}.weight", np.ascontiguousarray(weights[f"{ours}.kernel"].T))
        writer.add_tensor(f"{theirs}.bias", weights[f"{ours}.bias"])

    matrix("token_embd.weight", weights["embedding"])
    writer.add_tensor("position_embd.weight", weights["positions"])
    norm("output_norm", "final_norm")
    for number in range(work.num_layers):
        norm(f"blk.{number}.attn_norm", f"{number}.attention_norm")
        dense(f"blk.{number}.attn_qkv", f"{number}.qkv")
        dense(f"blk.{number}.attn_output", f"{number}.output")
        norm(f"blk.{number}.ffn_norm", f"{number}.feed_forward_norm")
        dense(f"blk.{number}.ffn_up", f"{number}.widen")
        dense(f"blk.{number}.ffn_down", f"{number}.narrow")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
